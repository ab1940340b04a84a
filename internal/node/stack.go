package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// A part is something that runs as long as the node does.
type part struct {
	name string
	run  func(context.Context) error
	// ready, if set, is closed when what comes after may start.
	ready <-chan struct{}
}

// ended tells how a part's run came to its end.
type ended struct {
	part part
	err  error
}

// runStack starts parts one after another and runs them until ctx ends or one
// of them does. Then it stops them in the reverse order, each when those above
// are gone: who is used outlives its users. It returns when none is left, or
// with an error when stopping takes longer than patience: then the process must
// end, and what hangs with it.
func runStack(ctx context.Context, log *slog.Logger, patience time.Duration, parts []part, serving func() error) error {
	type started struct {
		part
		stop context.CancelFunc
		done chan struct{}
	}
	ends := make(chan ended, len(parts))
	var up []started
	err := func() error {
		for _, p := range parts {
			// Not a child of ctx: ctx's end is the beginning of stopping in order.
			own, stop := context.WithCancel(context.WithoutCancel(ctx))
			s := started{p, stop, make(chan struct{})}
			up = append(up, s)
			go func() {
				defer close(s.done)
				ends <- ended{p, p.run(own)}
			}()
			if p.ready == nil {
				continue
			}
			select {
			case <-p.ready:
			case e := <-ends:
				return e.cause()
			case <-ctx.Done():
				return nil
			}
		}
		if err := serving(); err != nil {
			return err
		}
		select {
		case e := <-ends:
			return e.cause()
		case <-ctx.Done():
			return nil
		}
	}()
	late := time.NewTimer(patience)
	defer late.Stop()
	for i := len(up) - 1; i >= 0; i-- {
		began := time.Now()
		up[i].stop()
		select {
		case <-up[i].done:
		case <-late.C:
			for j := range i {
				up[j].stop() // what can still end in order does
			}
			return errors.Join(err, fmt.Errorf("%s did not stop within %s", up[i].name, patience))
		}
		log.Debug("stopped", "part", up[i].name, "took", time.Since(began))
	}
	return err
}

// cause is why the whole stack must stop.
func (e ended) cause() error {
	if e.err == nil {
		return fmt.Errorf("%s ended by itself", e.part.name)
	}
	return fmt.Errorf("%s: %w", e.part.name, e.err)
}
