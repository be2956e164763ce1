package main

import (
	"context"
	"errors"
	"time"

	"github.com/segmentio/kafka-go"
)

// serial is the classic: fetch, call, commit, again.
func serial(ctx context.Context, from *source, target *target) error {
	reader := kafka.NewReader(kafka.ReaderConfig{
		Brokers:     []string{from.brokers},
		GroupID:     from.group,
		Topic:       from.topic,
		StartOffset: kafka.FirstOffset,
		MaxWait:     20 * time.Millisecond,
		// Commits in the background once a second; one for each event costs a round trip each.
		CommitInterval: time.Second,
	})
	from.assigned.Store(true)
	for {
		record, err := reader.FetchMessage(ctx)
		if errors.Is(err, context.Canceled) {
			return reader.Close()
		}
		if err != nil {
			return err
		}
		target.call(int64(record.Partition), record.Offset, record.Key, record.Value)
		if err := reader.CommitMessages(ctx, record); err != nil && ctx.Err() == nil {
			return err
		}
	}
}
