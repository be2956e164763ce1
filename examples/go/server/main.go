// Server implements shop.v1.EventService: it logs what it is told.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/reflection"

	shopv1 "example.com/shop/gen/shop/v1"
)

type eventService struct {
	shopv1.UnimplementedEventServiceServer
}

func (eventService) HandleEvent(_ context.Context, request *shopv1.EventRequest) (*shopv1.EventResponse, error) {
	if request.GetPriority() == "" {
		log.Printf("handled %q", request.GetMessage())
	} else {
		log.Printf("handled %q with priority %q", request.GetMessage(), request.GetPriority())
	}
	return &shopv1.EventResponse{}, nil
}

func main() {
	address := flag.String("address", env("ADDRESS", "127.0.0.1:50051"), "address to listen on")
	flag.Parse()

	listener, err := net.Listen("tcp", *address)
	if err != nil {
		log.Fatalf("listen: %v", err)
	}
	server := grpc.NewServer()
	shopv1.RegisterEventServiceServer(server, eventService{})
	reflection.Register(server)

	stopped := make(chan os.Signal, 1)
	signal.Notify(stopped, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-stopped
		server.GracefulStop()
	}()

	log.Printf("listening on %s", listener.Addr())
	if err := server.Serve(listener); err != nil {
		log.Fatalf("serve: %v", err)
	}
}

func env(name, otherwise string) string {
	if value, ok := os.LookupEnv(name); ok {
		return value
	}
	return otherwise
}
