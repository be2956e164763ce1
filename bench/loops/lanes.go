package main

import (
	"context"
	"hash/maphash"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Records waiting for each goroutine. Enough that a poll need not wait for the slowest of them.
const laneRecordsMax = 256

// keyed keeps a key in order: every record of a key goes to the same goroutine.
func keyed(ctx context.Context, from *source, target *target, lanes int) error {
	seed := maphash.MakeSeed()
	queues := make([]chan *kgo.Record, lanes)
	for number := range queues {
		queues[number] = make(chan *kgo.Record, laneRecordsMax)
	}
	return run(ctx, from, target, queues, func(record *kgo.Record) chan *kgo.Record {
		return queues[maphash.Bytes(seed, record.Key)%uint64(lanes)]
	})
}

// unordered hands the next record to whichever goroutine is free.
func unordered(ctx context.Context, from *source, target *target, lanes int) error {
	queue := make(chan *kgo.Record, lanes*laneRecordsMax)
	queues := make([]chan *kgo.Record, lanes)
	for number := range queues {
		queues[number] = queue
	}
	return run(ctx, from, target, queues, func(*kgo.Record) chan *kgo.Record { return queue })
}

// run reads, hands each record to its queue, and has one goroutine a queue call the target.
//
// What is marked is committed once a second: the highest record of a partition whose call has ended, whether
// or not those before it have.
func run(
	ctx context.Context, from *source, target *target, queues []chan *kgo.Record,
	queueOf func(*kgo.Record) chan *kgo.Record,
) error {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(from.brokers),
		kgo.ConsumerGroup(from.group),
		kgo.ConsumeTopics(from.topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.AutoCommitMarks(),
		kgo.AutoCommitInterval(time.Second),
		kgo.FetchMaxWait(20*time.Millisecond),
		kgo.OnPartitionsAssigned(func(context.Context, *kgo.Client, map[string][]int32) { from.assigned.Store(true) }),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	var working sync.WaitGroup
	for _, queue := range queues {
		working.Go(func() {
			for record := range queue {
				target.call(int64(record.Partition), record.Offset, record.Key, record.Value)
				client.MarkCommitRecords(record)
			}
		})
	}
	for {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			break
		}
		if err := fetches.Err(); err != nil {
			return err
		}
		fetches.EachRecord(func(record *kgo.Record) { queueOf(record) <- record })
	}
	closed := make(map[chan *kgo.Record]bool)
	for _, queue := range queues {
		if !closed[queue] {
			closed[queue] = true
			close(queue)
		}
	}
	working.Wait()
	return client.CommitMarkedOffsets(context.Background())
}
