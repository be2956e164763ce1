// Writer publishes "Some event" to a Kafka topic, again and again.
package main

import (
	"context"
	"errors"
	"flag"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/segmentio/kafka-go"
)

func main() {
	brokers := flag.String("brokers", env("BROKERS", "127.0.0.1:9092"), "Kafka brokers, separated by commas")
	topic := flag.String("topic", env("TOPIC", "events"), "topic to write to; made if it is not there")
	partitions := flag.Int("partitions", 8, "partitions of the topic, where it has to be made")
	interval := flag.Duration("interval", time.Second, "time between two events")
	message := flag.String("message", "Some event", "what every event says")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	addresses := strings.Split(*brokers, ",")
	if err := createTopic(ctx, addresses, *topic, *partitions); err != nil {
		log.Fatalf("create topic %s: %v", *topic, err)
	}

	writer := &kafka.Writer{
		Addr:         kafka.TCP(addresses...),
		Topic:        *topic,
		Balancer:     &kafka.LeastBytes{},
		RequiredAcks: kafka.RequireAll,
		BatchTimeout: 10 * time.Millisecond,
	}
	defer writer.Close()

	ticker := time.NewTicker(*interval)
	defer ticker.Stop()
	for {
		// Not ctx: an event that is on its way when we are stopped still arrives, and is logged.
		if err := writer.WriteMessages(context.Background(), kafka.Message{Value: []byte(*message)}); err != nil {
			log.Printf("write: %v", err)
		} else {
			log.Printf("wrote %q to %s", *message, *topic)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func createTopic(ctx context.Context, brokers []string, topic string, partitions int) error {
	client := &kafka.Client{Addr: kafka.TCP(brokers...), Timeout: 10 * time.Second}
	response, err := client.CreateTopics(ctx, &kafka.CreateTopicsRequest{
		Topics: []kafka.TopicConfig{{Topic: topic, NumPartitions: partitions, ReplicationFactor: 1}},
	})
	if err != nil {
		return err
	}
	if err := response.Errors[topic]; err != nil && !errors.Is(err, kafka.TopicAlreadyExists) {
		return err
	}
	return nil
}

func env(name, otherwise string) string {
	if value, ok := os.LookupEnv(name); ok {
		return value
	}
	return otherwise
}
