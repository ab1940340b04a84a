package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"trestle/internal/cluster"
	"trestle/shuffle/driver"
)

const (
	firstPause = 20 * time.Millisecond // before connecting again; doubles
	mostPause  = time.Second
	// leaveTime is how long a reader waits for the other end to notice that it
	// leaves.
	leaveTime = time.Second
	// mostGarbled is how often a block may come with a wrong checksum before it
	// counts as stored that way.
	mostGarbled = 2
)

// A Reader reads what one TaskManager keeps. It is a driver.Reader.
type Reader struct {
	c    *Client
	from string // the TaskManager
	ids  []driver.PartitionID
	what request // but for the progress

	ready  chan struct{} // closed when the partitions were opened once, or err is set
	done   chan struct{} // closed when run has returned
	wake   chan struct{} // of capacity 1: Next may look again
	cancel context.CancelFunc

	current []byte // what Next gave last
	told    uint64 // of consumed, as the other end knows

	// Where the reading is; for run alone.
	part    int  // in ids, of the last block
	skip    int  // blocks of it that have come
	opened  bool // over the last connection
	garbled int

	mu     sync.Mutex
	queue  []arrived
	got    progress
	stream *upstream // while connected
	err    error     // after the queue
	closed bool
}

// An arrived block.
type arrived struct {
	data  []byte // a chunk of the budget
	count int
}

// upstream sends to the other end, for whoever wants to.
type upstream struct {
	mu     sync.Mutex
	to     *stream
	closed bool
}

func (u *upstream) send(f *cluster.Frame) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		f.Free()
		return
	}
	_ = u.to.Send(f) // what goes wrong is told to who receives
}

// leave says that no more is wanted.
func (u *upstream) leave() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.closed {
		u.closed = true
		_ = u.to.CloseSend() // what goes wrong is told to who receives
	}
}

// start begins to read. (Next, Ready and Close are one goroutine's.)
func (r *Reader) start() {
	if r.cancel != nil || len(r.ids) == 0 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go r.run(ctx)
}

// Ready waits until the TaskManager holds the partitions for this reader, even
// if they are released, or the reading has failed.
func (r *Reader) Ready(ctx context.Context) error {
	r.start()
	if r.cancel == nil {
		return nil
	}
	select {
	case <-r.ready:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil && !errors.Is(r.err, io.EOF) {
		return r.err
	}
	return nil
}

// Next gives the next block.
func (r *Reader) Next(ctx context.Context) ([]byte, int, error) {
	if ctx.Err() != nil {
		return nil, 0, context.Cause(ctx)
	}
	r.start()
	for {
		b, up, p, err := r.take()
		if up != nil {
			r.told = p.Consumed
			up.send(numbers(kindCredit, p))
		}
		if err != nil {
			return nil, 0, err
		}
		if b.data != nil {
			r.current = b.data
			return b.data, b.count, nil
		}
		select {
		case <-r.wake:
		case <-ctx.Done():
			return nil, 0, context.Cause(ctx)
		}
	}
}

// take ends the use of the last block and takes the next one if it is there.
// It also tells if it is time to give credit.
func (r *Reader) take() (b arrived, up *upstream, p progress, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current != nil {
		r.got.Consumed += uint64(len(r.current))
		r.c.cfg.Budget.Free(r.current)
		r.current = nil
	}
	if r.stream != nil && r.got.Consumed-r.told >= uint64(r.c.cfg.Window)/4 {
		up, p = r.stream, r.got
	}
	if len(r.queue) > 0 {
		b = r.queue[0]
		r.queue[0] = arrived{}
		r.queue = r.queue[1:]
		return b, up, p, nil
	}
	return b, up, p, r.err
}

// Close leaves. The TaskManager may let the partitions go.
func (r *Reader) Close() {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return
	}
	r.closed = true
	up := r.stream
	r.mu.Unlock()
	if r.cancel != nil {
		if up != nil {
			// Else the other end would take it for a broken connection, and might keep
			// a partition's writer waiting.
			up.leave()
			late := time.AfterFunc(leaveTime, r.cancel)
			<-r.done
			late.Stop()
		}
		r.cancel()
		<-r.done
	}
	budget := r.c.cfg.Budget
	budget.Free(r.current)
	r.current = nil
	for _, b := range r.queue {
		budget.Free(b.data)
	}
	r.queue = nil
}

// run connects and receives, again and again, until the end.
func (r *Reader) run(ctx context.Context) {
	defer close(r.done)
	var since time.Time // it has not got on
	pause := firstPause
	for {
		before, began := r.got.Blocks, time.Now() // Blocks is written here only
		r.opened = false
		err := r.connect(ctx)
		if ctx.Err() != nil || r.isClosed() {
			return
		}
		var final *finalError
		if err == nil || errors.As(err, &final) {
			r.finish(err, final)
			return
		}
		// A connection that stood for long was good, even if there was nothing to
		// send.
		if r.got.Blocks > before || r.opened && time.Since(began) > r.c.cfg.Retry {
			since, pause = time.Now(), firstPause
		}
		if since.IsZero() {
			since = began
		}
		if time.Since(since) > r.c.cfg.Retry {
			r.giveUp(err)
			return
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, mostPause)
		case <-ctx.Done():
			return
		}
	}
}

func (r *Reader) isClosed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed
}

// A finalError is one that connecting again doesn't mend.
type finalError struct{ err error }

func (e *finalError) Error() string { return e.err.Error() }

func (r *Reader) finish(err error, final *finalError) {
	switch {
	case err == nil:
		err = io.EOF
	case final != nil:
		err = final.err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
	r.isReady()
	r.notify()
}

// giveUp ends a reading that could not go on. Who is not reached has lost what
// it kept; who answers has not.
func (r *Reader) giveUp(err error) {
	var passing *passingError
	if errors.As(err, &passing) {
		r.finish(fmt.Errorf("read shuffle partitions from TaskManager %s: %w", r.from, err), nil)
		return
	}
	var all []*driver.PartitionError
	for _, id := range r.ids[r.part:] {
		all = append(all, &driver.PartitionError{
			Partition: id,
			Err:       fmt.Errorf("TaskManager %s can't be reached: %w", r.from, err),
		})
	}
	r.finish(driver.Lost(all), nil)
}

// A passingError is a TaskManager's own trouble that loses nothing.
type passingError struct{ text string }

func (e *passingError) Error() string { return e.text }

// isReady lets Ready return. (r.mu is held.)
func (r *Reader) isReady() {
	select {
	case <-r.ready:
	default:
		close(r.ready)
	}
}

// notify makes Next look again.
func (r *Reader) notify() {
	select {
	case r.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// connect receives over one stream; nil is the reading's end.
func (r *Reader) connect(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := r.c.cfg.Peer(ctx, r.from)
	if err != nil {
		return err
	}
	st, err := read.Open(ctx, conn)
	if err != nil {
		return err
	}
	defer st.Close()
	up, err := r.hello(st)
	if err != nil {
		return err
	}
	defer func() {
		r.mu.Lock()
		r.stream = nil
		r.mu.Unlock()
	}()
	in := &receiver{r: r, st: st, base: r.part}
	err = in.all()
	var final *finalError
	if err == nil || errors.As(err, &final) {
		// The other end keeps what is unconfirmed until it hears this.
		up.leave()
		late := time.AfterFunc(leaveTime, cancel)
		defer late.Stop()
		for {
			f, err := st.Recv()
			if err != nil {
				break
			}
			f.Free()
		}
	}
	return err
}

// hello sends the request.
func (r *Reader) hello(st *stream) (*upstream, error) {
	q := r.what
	q.Parts, q.Skip = runs(r.ids[r.part:]), r.skip
	r.mu.Lock()
	q.progress = r.got
	r.mu.Unlock()
	f, err := message(kindRequest, q)
	if err != nil {
		return nil, &finalError{err}
	}
	if err := st.Send(f); err != nil && !errors.Is(err, cluster.ErrEnded) { // else Recv says why
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, errLeft
	}
	// What was consumed meanwhile is told with the next credit.
	r.stream = &upstream{to: st}
	return r.stream, nil
}
