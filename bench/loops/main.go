// Loops are the consumers that teams write by hand today, each at its best on published libraries: what
// Pelton's benchmark is measured beside. They retry nothing and keep no account of what is settled out of order,
// so a crash or a failure loses or repeats what Pelton would not; that is the price at which they are fast.
//
//	serial     one call after another, in the order of the log: what most people write first
//	unordered  as many calls at once as there are lanes, in no order
//	keyed      a lane for each share of the keys, so that a key stays in order
//
// GET /readyz answers 200 when partitions are assigned. SIGTERM finishes what is out, commits and leaves.
package main

import (
	"context"
	"flag"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
)

const (
	// As the target's, so large that flow control never slows a call.
	windowBytes = 8 << 20
	// Of one call, as Pelton's default.
	timeout = 10 * time.Second
)

func main() {
	which := flag.String("loop", "keyed", "serial, unordered or keyed")
	lanes := flag.Int("lanes", 64, "calls at once")
	http_ := flag.String("http", "127.0.0.1:0", "where /readyz is")
	var from source
	flag.StringVar(&from.brokers, "brokers", "", "bootstrap address")
	flag.StringVar(&from.topic, "topic", "", "topic to read")
	flag.StringVar(&from.group, "group", "", "consumer group")
	address := flag.String("target", "", "address of the gRPC server")
	method := flag.String("method", "", "full name of the method to call")
	flag.Parse()

	target, err := dial(*address, *method)
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !from.assigned.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	go func() { log.Fatal(http.ListenAndServe(*http_, nil)) }()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	switch *which {
	case "serial":
		err = serial(ctx, &from, target)
	case "unordered":
		err = unordered(ctx, &from, target, *lanes)
	case "keyed":
		err = keyed(ctx, &from, target, *lanes)
	default:
		log.Fatalf("no loop is called %q", *which)
	}
	if err != nil {
		log.Fatal(err)
	}
}

type source struct {
	brokers, topic, group string
	assigned              atomic.Bool
}

// target is the method that every event is sent to.
type target struct {
	connection *grpc.ClientConn
	method     string
}

func dial(address, method string) (*target, error) {
	connection, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{})),
		grpc.WithInitialWindowSize(windowBytes),
		grpc.WithInitialConnWindowSize(windowBytes),
		grpc.WithSharedWriteBuffer(true),
	)
	return &target{connection, method}, err
}

// call sends one event, and where it stands in the log, as Pelton does.
func (t *target) call(partition, offset int64, key, value []byte) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx,
		"pelton-partition", strconv.FormatInt(partition, 10),
		"pelton-offset", strconv.FormatInt(offset, 10),
		"pelton-key-bin", string(key))
	// What such loops do with an error: they log it, and go on.
	if err := t.connection.Invoke(ctx, t.method, &message{value}, &message{}); err != nil {
		log.Printf("%d/%d: %v", partition, offset, err)
	}
}

// message is bytes as they travel: none of the loops pays for a codec.
type message struct{ body []byte }

type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	body := v.(*message).body
	if len(body) == 0 {
		return nil, nil
	}
	return mem.BufferSlice{mem.SliceBuffer(body)}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	v.(*message).body = data.Materialize()
	return nil
}
