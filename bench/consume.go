package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"
)

// handedOver sends one record at a time to a consumer in another goroutine, each when that one
// has the one before. Its sample is a quantile of the times from before a record is sent until
// the consumer has it.
func (t *turn) handedOver(share float64) (err error) {
	s, ok := t.store.(consumable)
	if !ok {
		return errCannot
	}
	var sent []byte // changed only while nothing is on its way
	last := false   // likewise
	got := make(chan time.Time, 1)
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		ended <- s.consume(ctx, func(record []byte) bool {
			at := time.Now()
			if more := !last && bytes.Equal(record, sent); !more {
				return false
			}
			got <- at
			return true
		})
	}()
	defer func() {
		cancel()
		if !last { // else it has ended
			<-ended
		}
	}()
	var took []float64
	one := func() error {
		sent = t.next()
		began := time.Now()
		if err := s.send(sent); err != nil {
			return err
		}
		select {
		case at := <-got:
			took = append(took, float64(at.Sub(began)))
			return nil
		case err := <-ended:
			ended <- nil
			return errors.Join(errors.New("the consumer did not get what was sent"), err)
		}
	}
	if err := t.warmUp(1, one); err != nil {
		return err
	}
	took = took[:0]
	err = t.timed(func() (int, error) { return t.repeat(t.scale.turn, t.scale.room/t.size, one) })
	t.sample.elapsed = time.Duration(quantile(took, share) * float64(t.sample.operations))
	if err != nil {
		return err
	}
	last = true
	return errors.Join(s.send(t.next()), <-ended)
}

// consumed consumes all records, with a new consumer each time. The clock starts when a tenth
// has come: a consumer takes a while to begin, and some fetch ahead.
func (t *turn) consumed() error {
	s, ok := t.store.(consumable)
	if !ok {
		return errCannot
	}
	var elapsed time.Duration
	measured := 0
	err := t.timed(func() (int, error) {
		_, err := t.repeat(t.scale.turn, 1000, func() error {
			var began time.Time
			n, size := 0, 0
			err := s.consume(context.Background(), func(record []byte) bool {
				n, size = n+1, size+len(record)
				t.sink += record[0]
				if n == t.stored/10 {
					began = time.Now()
				}
				return n < t.stored
			})
			elapsed += time.Since(began)
			measured += n - t.stored/10
			if err == nil && size != t.stored*t.size {
				err = fmt.Errorf("consumed %d records with %d bytes, %d were appended", n, size, t.stored)
			}
			return err
		})
		return measured, err
	})
	t.sample.elapsed = elapsed
	return err
}
