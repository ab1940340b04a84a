package side

import (
	"container/list"
	"context"
	"errors"
	"sync"
)

// A Key names the content of a side input: the same key never stands for
// other elements. A dataset that was made again has another generation.
type Key struct {
	Job        string
	Collection string
	Access     Access
	Generation string
}

// A Cache builds each view once and shares it between the tasks of a process.
// Views that nobody uses are kept, the least recently used ones closed first,
// while they take no more than the idle limit. It is safe for concurrent use.
type Cache struct {
	idleLimit int64

	mu        sync.Mutex
	entries   map[Key]*entry
	idle      list.List // of *entry without users, the most recently used first
	idleBytes int64
}

// An entry is a view that is being built (ready is open) or is ready.
type entry struct {
	key   Key
	ready chan struct{} // closed when view or err is set
	view  *View
	err   error

	// Guarded by the cache's mutex.
	users   int
	place   *list.Element // in idle; nil while in use
	dropped bool          // close it when the last user is gone
}

// NewCache returns an empty cache that keeps idle views of idleLimit bytes of
// memory together.
func NewCache(idleLimit int64) *Cache {
	return &Cache{idleLimit: idleLimit, entries: make(map[Key]*entry)}
}

// A Handle is one user's hold on a view.
type Handle struct {
	*View
	release func()
}

// Release ends the use. Release after Release does nothing.
func (h *Handle) Release() { h.release() }

// Acquire returns the view of key. If there is none, one caller builds it and
// the others wait. A build that fails is told to those who waited for it, and
// tried again by the next caller; one that failed because its caller's ctx
// ended is tried again by one of those who waited.
func (c *Cache) Acquire(ctx context.Context, key Key, build func(context.Context) (*View, error)) (*Handle, error) {
	for {
		e, mine := c.enter(key)
		if mine {
			c.fill(ctx, e, build)
		}
		select {
		case <-e.ready:
		case <-ctx.Done():
			c.leave(e)
			return nil, context.Cause(ctx)
		}
		if e.err == nil {
			return &Handle{View: e.view, release: sync.OnceFunc(func() { c.leave(e) })}, nil
		}
		c.leave(e)
		gone := errors.Is(e.err, context.Canceled) || errors.Is(e.err, context.DeadlineExceeded)
		if mine || !gone || ctx.Err() != nil {
			return nil, e.err
		}
	}
}

// fill builds e's view. It ends e even if build panics, so that nobody waits
// for ever.
func (c *Cache) fill(ctx context.Context, e *entry, build func(context.Context) (*View, error)) {
	e.err = errors.New("side input: the build did not end")
	defer func() {
		if e.err != nil {
			c.mu.Lock()
			c.forget(e)
			c.mu.Unlock()
		}
		close(e.ready)
	}()
	e.view, e.err = build(ctx)
	if e.err != nil && ctx.Err() != nil {
		e.err = ctx.Err() // whatever it was called on the way
	}
}

// enter finds or makes the entry and counts the caller as a user.
func (c *Cache) enter(key Key) (e *entry, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[key]
	if !ok {
		e = &entry{key: key, ready: make(chan struct{})}
		c.entries[key] = e
	}
	e.users++
	if e.place != nil {
		c.idle.Remove(e.place)
		e.place = nil
		c.idleBytes -= e.view.Bytes()
	}
	return e, !ok
}

// leave ends one use, and makes the view idle after the last one.
func (c *Cache) leave(e *entry) {
	c.mu.Lock()
	var close []*View
	if e.users--; e.users == 0 && e.view != nil {
		if e.dropped {
			close = append(close, e.view)
		} else {
			e.place = c.idle.PushFront(e)
			c.idleBytes += e.view.Bytes()
			close = c.evict()
		}
	}
	c.mu.Unlock()
	closeAll(close)
}

// evict takes idle views out until the rest keeps to the limit. Caller holds mu.
func (c *Cache) evict() (evicted []*View) {
	for c.idleBytes > c.idleLimit {
		e := c.idle.Back().Value.(*entry)
		evicted = append(evicted, e.view)
		c.unlink(e)
	}
	return evicted
}

// unlink removes an idle entry. Caller holds mu.
func (c *Cache) unlink(e *entry) {
	c.idle.Remove(e.place)
	e.place = nil
	c.idleBytes -= e.view.Bytes()
	c.forget(e)
}

// forget makes the next Acquire build anew. Caller holds mu.
func (c *Cache) forget(e *entry) {
	e.dropped = true
	if c.entries[e.key] == e {
		delete(c.entries, e.key)
	}
}

// Drop closes the views whose keys match, those in use when their last user
// releases them.
func (c *Cache) Drop(match func(Key) bool) {
	c.mu.Lock()
	var close []*View
	for key, e := range c.entries {
		if !match(key) {
			continue
		}
		if e.place != nil {
			close = append(close, e.view)
			c.unlink(e)
		} else {
			c.forget(e)
		}
	}
	c.mu.Unlock()
	closeAll(close)
}

// DropJob closes the views of a job.
func (c *Cache) DropJob(job string) { c.Drop(func(k Key) bool { return k.Job == job }) }

func closeAll(views []*View) {
	for _, v := range views {
		v.Close()
	}
}
