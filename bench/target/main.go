// Target answers any gRPC call after a fixed delay, as cheaply as grpc-go can, and keeps a journal of what it
// was sent: the other end of Pelton's benchmark. Loopback only.
//
// It decodes nothing of a unary request and makes no stubs; HandleStream is read field by field (stream.go).
// On start it prints one JSON line with its addresses; GET /stats gives the journal as another, GET /latencies
// how late each event was, POST /mark has the next call count as the first. It ends when its standard input does.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	handleStream = "/pelton.v1.EventHandler/HandleStream"
	// So large that flow control never slows the one who calls.
	windowBytes = 8 << 20
	// A batch of deliveries may be as large as Pelton makes it.
	messageBytesMax = 64 << 20
)

func main() {
	delay := flag.Duration("delay", 0, "time between a call and its answer")
	latency := flag.Bool("latency", false, "events begin with the time they were due, in nanoseconds; keep how late each is")
	poison := flag.String("poison", "", "refuse every event whose key ends so")
	code := flag.Uint("poison-code", uint(codes.InvalidArgument), "the status with which it is refused")
	flag.Parse()

	target := &target{delay: *delay, journal: newJournal(*latency, *poison), code: codes.Code(*code)}
	server := grpc.NewServer(
		grpc.ForceServerCodecV2(raw{}),
		grpc.UnknownServiceHandler(target.handle),
		grpc.InitialWindowSize(windowBytes),
		grpc.InitialConnWindowSize(windowBytes),
		grpc.MaxRecvMsgSize(messageBytesMax),
		grpc.SharedWriteBuffer(true),
	)
	listening, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	calls := &counting{Listener: listening}
	questions, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("GET /stats", func(w http.ResponseWriter, _ *http.Request) {
		stats := target.journal.stats()
		stats.Connections = calls.bytes()
		_ = json.NewEncoder(w).Encode(stats)
	})
	http.HandleFunc("POST /mark", func(http.ResponseWriter, *http.Request) { target.journal.mark() })
	http.HandleFunc("GET /latencies", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(target.journal.latencies())
	})
	go func() { log.Fatal(http.Serve(questions, nil)) }()
	go func() { log.Fatal(server.Serve(calls)) }()
	fmt.Printf("{\"grpc\": %q, \"http\": %q}\n", calls.Addr(), questions.Addr())

	// It ends with whoever started it, however that one ends.
	_, _ = io.Copy(io.Discard, os.Stdin)
}

type target struct {
	delay   time.Duration
	journal *journal
	// Of the events that are refused.
	code codes.Code
}

// handle takes every call, whatever its method.
func (t *target) handle(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	switch {
	case method == handleStream:
		return t.stream(stream)
	case strings.HasPrefix(method, "/grpc."):
		// Reflection and health: questions, not events.
		return status.Error(codes.Unimplemented, "not here")
	}
	return t.unary(stream)
}

// unary reads where the event stands from Pelton's metadata; the body is the event's value.
func (t *target) unary(stream grpc.ServerStream) error {
	var request message
	if err := stream.RecvMsg(&request); err != nil {
		return err
	}
	ctx := stream.Context()
	entry := func(name string) string {
		if values := metadata.ValueFromIncomingContext(ctx, name); len(values) > 0 {
			return values[0]
		}
		return ""
	}
	call := t.journal.begin(decimal(entry("pelton-partition")), decimal(entry("pelton-offset")),
		[]byte(entry("pelton-key-bin")), request.body)
	if t.delay > 0 {
		time.Sleep(t.delay)
	}
	t.journal.end(call)
	if call.refused {
		return status.Error(t.code, "poison")
	}
	return stream.SendMsg(&message{})
}

// decimal is -1 for what is no number, so that the journal can tell a call without a position.
func decimal(text string) int64 {
	if text == "" {
		return -1
	}
	number := int64(0)
	for _, digit := range []byte(text) {
		if digit < '0' || digit > '9' {
			return -1
		}
		number = number*10 + int64(digit-'0')
	}
	return number
}

// message is bytes as they travel.
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
