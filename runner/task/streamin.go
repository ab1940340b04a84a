package task

import (
	"context"
	"errors"
	"io"
	"sync"

	"trestle/coders"
	"trestle/runner/watermark"
)

// An inlet reads all inputs of a task at once, main and side: a producer that
// waited for one of them to be read might keep the others from coming.
type inlet struct {
	arrivals chan arrival // no capacity: each reader is one block ahead at most
	open     int          // readers whose end was not taken
	readers  []blockReader
	ctx      context.Context
	cancel   context.CancelFunc
	done     sync.WaitGroup
}

// An arrival is what one reader read: elements, a mark where count is 0, or its
// end.
type arrival struct {
	source int
	elems  []byte
	count  int
	end    bool
	err    error
}

func newInlet() *inlet {
	i := &inlet{arrivals: make(chan arrival)}
	i.ctx, i.cancel = context.WithCancel(context.Background())
	return i
}

// read begins to read an input. It is the next source.
func (i *inlet) read(r blockReader) {
	source := len(i.readers)
	i.readers = append(i.readers, r)
	i.open++
	i.done.Go(func() {
		for {
			elems, count, err := r.Next(i.ctx)
			a := arrival{source: source, elems: append([]byte(nil), elems...), count: count, err: err}
			if errors.Is(err, io.EOF) {
				a = arrival{source: source, end: true}
			}
			select {
			case i.arrivals <- a:
			case <-i.ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	})
}

// close ends the reading.
func (i *inlet) close() {
	i.cancel()
	i.done.Wait()
	for _, r := range i.readers {
		r.Close()
	}
	i.readers = nil
}

// channels are the inputs apart by producer: each producer says for itself what
// time it is.
func channels(inputs []Input) []Input {
	var all []Input
	for _, in := range inputs {
		for i := range in.Partitions {
			one := in
			one.Partitions = in.Partitions[i : i+1]
			if in.At != nil {
				one.At = in.At[i : i+1]
			}
			all = append(all, one)
		}
	}
	return all
}

// encodeMark makes the block of a mark.
func encodeMark(m watermark.Mark) []byte {
	b := coders.AppendTimestamp(nil, m.Watermark)
	if m.Idle {
		return append(b, 1)
	}
	return append(b, 0)
}

var errMark = errors.New("a mark between the elements of a pipelined partition is malformed")

func decodeMark(b []byte) (watermark.Mark, error) {
	if len(b) != 9 {
		return watermark.Mark{}, errMark
	}
	at, err := coders.DecodeTimestamp(b)
	return watermark.Mark{Watermark: at, Idle: b[8] != 0}, err
}
