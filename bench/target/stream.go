// HandleStream: every delivery is acked after the delay, as many tokens in one settlement as are due.
package main

import (
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers of pelton/v1/handler.proto and event.proto, as far as they are needed.
const (
	batchDeliveries  = 1
	deliveryEvent    = 3
	deliveryToken    = 10
	eventKey         = 8
	eventValue       = 9
	eventPosition    = 11
	positionPart     = 2
	positionOffset   = 3
	settlementsAcked = 1
	settlementsOther = 2
	settlementToken  = 1
	settlementCode   = 2
)

// Batches that wait for their delay; Pelton's concurrency ends long before.
const batchesMax = 1 << 14

// due is what one batch brought.
type due struct {
	at     time.Time
	calls  []call
	tokens []uint64
}

func (t *target) stream(stream grpc.ServerStream) error {
	waiting := make(chan due, batchesMax)
	settled := make(chan error, 1)
	go func() { settled <- t.settle(stream, waiting) }()
	for {
		var batch message
		err := stream.RecvMsg(&batch)
		if errors.Is(err, io.EOF) {
			close(waiting)
			return <-settled
		}
		if err != nil {
			close(waiting)
			return err
		}
		taken, err := t.take(batch.body)
		if err != nil {
			close(waiting)
			return err
		}
		if len(taken.tokens) > 0 {
			waiting <- taken
		}
	}
}

// settle sends the tokens that are due, all of them together; the delay is the same for all, so the first
// that came is the first that is due.
func (t *target) settle(stream grpc.ServerStream, waiting <-chan due) error {
	next, more := <-waiting
	for more {
		if wait := time.Until(next.at); wait > 0 {
			time.Sleep(wait)
		}
		var packed, refused []byte
		for now, isDue := time.Now(), true; isDue; {
			t.journal.end(next.calls...)
			packed, refused = t.pack(packed, refused, next)
			select {
			case next, more = <-waiting:
				isDue = more && !next.at.After(now)
			default:
				next, isDue = due{}, false
			}
		}
		settlement := protowire.AppendBytes(protowire.AppendTag(refused, settlementsAcked, protowire.BytesType), packed)
		if err := stream.SendMsg(&message{settlement}); err != nil {
			for range waiting {
				// Whoever fills it must not be left waiting.
			}
			return err
		}
		if more && next.tokens == nil {
			next, more = <-waiting
		}
	}
	return nil
}

// pack adds the tokens of what is due: to the packed ones, or as settlements of their own.
func (t *target) pack(packed, refused []byte, due due) ([]byte, []byte) {
	for number, token := range due.tokens {
		if !due.calls[number].refused {
			packed = protowire.AppendVarint(packed, token)
			continue
		}
		one := protowire.AppendVarint(protowire.AppendTag(nil, settlementToken, protowire.VarintType), token)
		one = protowire.AppendVarint(protowire.AppendTag(one, settlementCode, protowire.VarintType), uint64(t.code))
		refused = protowire.AppendBytes(protowire.AppendTag(refused, settlementsOther, protowire.BytesType), one)
	}
	return packed, refused
}

// take notes every delivery of a DeliveryBatch in the journal.
func (t *target) take(batch []byte) (due, error) {
	taken := due{at: time.Now().Add(t.delay)}
	err := fields(batch, func(number protowire.Number, delivery []byte, _ uint64) error {
		if number != batchDeliveries {
			return nil
		}
		var token uint64
		var key, value []byte
		partition, offset := int64(0), int64(0)
		err := fields(delivery, func(number protowire.Number, event []byte, varint uint64) error {
			switch number {
			case deliveryToken:
				token = varint
			case deliveryEvent:
				return fields(event, func(number protowire.Number, content []byte, _ uint64) error {
					switch number {
					case eventKey:
						key = content
					case eventValue:
						value = content
					case eventPosition:
						return fields(content, func(number protowire.Number, _ []byte, varint uint64) error {
							switch number {
							case positionPart:
								partition = int64(varint)
							case positionOffset:
								offset = int64(varint)
							}
							return nil
						})
					}
					return nil
				})
			}
			return nil
		})
		taken.tokens = append(taken.tokens, token)
		taken.calls = append(taken.calls, t.journal.begin(partition, offset, key, value))
		return err
	})
	return taken, err
}

// fields calls visit for each field of a message: with its bytes or, for a varint, its number.
func fields(body []byte, visit func(protowire.Number, []byte, uint64) error) error {
	for len(body) > 0 {
		number, kind, length := protowire.ConsumeTag(body)
		if length < 0 {
			return protowire.ParseError(length)
		}
		body = body[length:]
		var content []byte
		var varint uint64
		switch kind {
		case protowire.BytesType:
			content, length = protowire.ConsumeBytes(body)
		case protowire.VarintType:
			varint, length = protowire.ConsumeVarint(body)
		default:
			length = protowire.ConsumeFieldValue(number, kind, body)
		}
		if length < 0 {
			return protowire.ParseError(length)
		}
		body = body[length:]
		if err := visit(number, content, varint); err != nil {
			return err
		}
	}
	return nil
}
