// The journal: what came, how often, and in which order. It judges nothing; the benchmark does.
package main

import (
	"encoding/binary"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// More than any run here uses; a position beyond it is counted as a call and nothing else.
const partitionsMax = 1024

// Stats is what /stats says. Times are nanoseconds since the epoch.
type Stats struct {
	// Calls, or deliveries of a stream, and how many different events were answered.
	Calls   int64 `json:"calls"`
	Settled int64 `json:"settled"`
	// Calls of an event that had been answered before.
	Repeats int64 `json:"repeats"`
	// First calls of an event that came after one of a later event of its key.
	Disorder int64 `json:"disorder"`
	// Calls of a key while another one of that key was not answered yet.
	Overlaps int64 `json:"overlaps"`
	// Calls that were answered with an error, since their key is poison.
	Refused int64 `json:"refused"`
	// The first call of all, or since /mark; the last answer; and when this was said.
	FirstNs int64 `json:"first_ns"`
	LastNs  int64 `json:"last_ns"`
	NowNs   int64 `json:"now_ns"`
	// Bytes that came on each connection there has been, in the order in which they were taken.
	Connections []int64 `json:"connections"`
}

type journal struct {
	latency bool
	// A key that ends so is poison; empty where none is.
	poison     string
	calls      atomic.Int64
	first      atomic.Int64
	last       atomic.Int64
	partitions [partitionsMax]partition

	mu   sync.Mutex
	late [][2]int64
}

type partition struct {
	mu                                   sync.Mutex
	seen, answered                       bits
	keys                                 map[string]*key
	settled, repeats, disorder, overlaps int64
	refused                              int64
}

type key struct {
	open   int
	latest int64
}

// call is what end needs to know of a begin.
type call struct {
	partition *partition
	key       *key
	offset    int64
	refused   bool
}

func newJournal(latency bool, poison string) *journal {
	journal := &journal{latency: latency, poison: poison}
	for number := range journal.partitions {
		journal.partitions[number].keys = make(map[string]*key)
	}
	return journal
}

// mark makes the next call the first one.
func (j *journal) mark() { j.first.Store(0) }

func (j *journal) begin(number, offset int64, name, value []byte) call {
	j.calls.Add(1)
	if j.first.Load() == 0 {
		j.first.CompareAndSwap(0, time.Now().UnixNano())
	}
	if j.latency && len(value) >= 8 {
		due := int64(binary.BigEndian.Uint64(value))
		late := time.Now().UnixNano() - due
		j.mu.Lock()
		j.late = append(j.late, [2]int64{due, late})
		j.mu.Unlock()
	}
	refused := j.poison != "" && strings.HasSuffix(string(name), j.poison)
	if number < 0 || number >= partitionsMax || offset < 0 {
		return call{refused: refused}
	}
	p := &j.partitions[number]
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.answered.has(offset) {
		p.repeats++
	}
	isFirst := !p.seen.has(offset)
	p.seen.set(offset)
	if len(name) == 0 {
		return call{partition: p, offset: offset, refused: refused}
	}
	k := p.keys[string(name)]
	if k == nil {
		k = &key{latest: -1}
		p.keys[string(name)] = k
	}
	if isFirst && offset < k.latest {
		p.disorder++
	}
	k.latest = max(k.latest, offset)
	if k.open > 0 {
		p.overlaps++
	}
	k.open++
	return call{partition: p, key: k, offset: offset, refused: refused}
}

// end is called before the answer leaves, so that the next of the key cannot come first.
func (j *journal) end(calls ...call) {
	j.last.Store(time.Now().UnixNano())
	for _, call := range calls {
		p := call.partition
		if p == nil {
			continue
		}
		p.mu.Lock()
		if call.refused {
			p.refused++
		} else if !p.answered.has(call.offset) {
			p.answered.set(call.offset)
			p.settled++
		}
		if call.key != nil {
			call.key.open--
		}
		p.mu.Unlock()
	}
}

func (j *journal) stats() Stats {
	stats := Stats{Calls: j.calls.Load(), FirstNs: j.first.Load(), LastNs: j.last.Load()}
	stats.NowNs = time.Now().UnixNano()
	for number := range j.partitions {
		p := &j.partitions[number]
		p.mu.Lock()
		stats.Settled += p.settled
		stats.Repeats += p.repeats
		stats.Disorder += p.disorder
		stats.Overlaps += p.overlaps
		stats.Refused += p.refused
		p.mu.Unlock()
	}
	return stats
}

// latencies are pairs: when the event was due, and how much later it came.
func (j *journal) latencies() [][2]int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([][2]int64{}, j.late...)
}

// bits is a set of offsets.
type bits []uint64

func (b bits) has(offset int64) bool {
	word := offset >> 6
	return word < int64(len(b)) && b[word]&(1<<(offset&63)) != 0
}

func (b *bits) set(offset int64) {
	word := offset >> 6
	for int64(len(*b)) <= word {
		*b = append(*b, 0)
	}
	(*b)[word] |= 1 << (offset & 63)
}
