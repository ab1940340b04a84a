package blob

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"trestle/internal/bucket"

	"golang.org/x/sync/errgroup"
)

const (
	// deleters is how many deletions are under way at once.
	deleters = 4
	// mostDeletions bounds those that wait. What is beyond goes with its job.
	mostDeletions = 100_000
	// deletePause is how long to wait when the store can't be reached, after
	// the bucket's own tries.
	deletePause = 10 * time.Second
)

// Deletions are objects, and prefixes (which end with a slash), that nobody
// wants any more. Releasing must not wait for a store that may be far away, so
// they are deleted by a goroutine that is there as long as there are any.
type deletions struct {
	bucket *bucket.Bucket

	mu      sync.Mutex
	waiting []string
	closed  bool
	running chan struct{} // closed when the goroutine ends; nil if there is none
	ctx     context.Context
	cancel  context.CancelFunc
}

// add has keys deleted sooner or later.
func (d *deletions) add(keys ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, k := range keys {
		if len(d.waiting) < mostDeletions || strings.HasSuffix(k, "/") {
			d.waiting = append(d.waiting, k)
		}
	}
	if len(d.waiting) == 0 || d.closed || d.running != nil {
		return
	}
	d.running = make(chan struct{})
	d.ctx, d.cancel = context.WithCancel(context.Background())
	go d.run(d.ctx, d.running) // close waits for it
}

// take gives what waits, or ends the goroutine.
func (d *deletions) take() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	keys := d.waiting
	d.waiting = nil
	if len(keys) == 0 {
		close(d.running)
		d.running = nil
		d.cancel()
	}
	return keys
}

func (d *deletions) run(ctx context.Context, done chan struct{}) {
	for {
		keys := d.take()
		if len(keys) == 0 {
			return
		}
		left := d.deleteAll(ctx, keys)
		if ctx.Err() != nil {
			d.mu.Lock()
			d.waiting = append(left, d.waiting...)
			d.running = nil
			d.mu.Unlock()
			close(done)
			return
		}
		if len(left) > 0 {
			d.mu.Lock()
			d.waiting = append(left, d.waiting...)
			d.mu.Unlock()
			select {
			case <-time.After(deletePause):
			case <-ctx.Done():
			}
		}
	}
}

// deleteAll tries once, and gives what must be tried again.
func (d *deletions) deleteAll(ctx context.Context, keys []string) (left []string) {
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(deleters)
	for _, k := range keys {
		g.Go(func() error {
			var err error
			if strings.HasSuffix(k, "/") {
				err = d.bucket.DeleteAll(ctx, k)
			} else {
				err = d.bucket.Delete(ctx, k)
			}
			var unreachable *bucket.UnreachableError
			if errors.As(err, &unreachable) || ctx.Err() != nil {
				mu.Lock()
				left = append(left, k)
				mu.Unlock()
			}
			// What the store refuses for good stays for Sweep, or for who looks
			// after the bucket.
			return nil
		})
	}
	_ = g.Wait() // nothing above returns an error
	return left
}

// close waits for what waits, until ctx ends.
func (d *deletions) close(ctx context.Context) error {
	d.mu.Lock()
	d.closed = true
	running, cancel := d.running, d.cancel
	d.mu.Unlock()
	if running == nil {
		return nil
	}
	select {
	case <-running:
		return nil
	case <-ctx.Done():
		cancel()
		<-running
		d.mu.Lock()
		defer d.mu.Unlock()
		return fmt.Errorf("%d shuffle objects are not deleted: %w", len(d.waiting), context.Cause(ctx))
	}
}
