package remote

import (
	"context"
	"fmt"
	"math/rand"
	"slices"
	"testing"
	"time"

	"trestle/runner/task"

	"github.com/google/go-cmp/cmp"
)

// However often the connection breaks, each command is obeyed once, each report
// is passed on once, and both in order.
func TestOnceInOrder(t *testing.T) {
	for seed := range int64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			const n = 300
			jm := newJobManager(t, ServerConfig{})
			jm.lead(t, 1)
			w := newWire(t, jm.addr)
			w.delay.Store(int64(100 * time.Microsecond))
			local := newRecorder("tm1")
			run(t, local, ClientConfig{}, w.addr())
			s := jm.join(t)
			// Some are always under way, and never all.
			commands, reports := make(chan bool, 7), make(chan bool, 7)
			go func() {
				for i := range n {
					commands <- true
					s.Cancel([]task.ID{id(i)})
				}
			}()
			go func() {
				for i := range n {
					reports <- true
					one := id(i)
					local.reports <- task.Report{Started: &one}
				}
			}()
			chance := rand.New(rand.NewSource(seed))
			cuts := int64(0)
			for i := range n {
				if got := receive(t, local.told); !cmp.Equal(got, []task.ID{id(i)}) {
					t.Fatalf("command %d is %v", i, got)
				}
				<-commands
				if got := receive(t, s.Reports()); *got.Started != id(i) {
					t.Fatalf("report %d is %v", i, got)
				}
				<-reports
				if chance.Intn(20) == 0 {
					w.cut()
					cuts++
				}
			}
			if made := w.made.Load(); made < cuts/2 {
				t.Errorf("%d cuts made no more than %d connections", cuts, made)
			}
			select {
			case again := <-jm.sessions:
				t.Errorf("a broken connection has ended the session: %v", again)
			default:
			}
		})
	}
}

// A link that carries nothing one way, for less than the lease, costs nothing;
// for longer, the TaskManager is lost, and joins anew with what it has.
func TestOneWay(t *testing.T) {
	for _, c := range []struct {
		name     string
		up, down bool
	}{{"up", true, false}, {"down", false, true}, {"both", true, true}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			jm := newJobManager(t, ServerConfig{Lease: 3 * time.Second})
			jm.lead(t, 1)
			w := newWire(t, jm.addr)
			local := newRecorder("tm1")
			run(t, local, ClientConfig{}, w.addr())
			s := jm.join(t)
			s.Start([]task.Spec{spec1(1, 0), spec1(2, 0)})
			receive(t, local.told)

			// The client or the server notices after half the lease, and the client
			// comes again: by then the way is free.
			w.up.Store(c.up)
			w.down.Store(c.down)
			s.Cancel([]task.ID{id(5)})
			local.reports <- task.Report{Finished: &task.Finished{ID: id(1)}}
			<-dropped(s)
			w.up.Store(false)
			w.down.Store(false)
			w.cut()
			if got := receive(t, local.told); !cmp.Equal(got, []task.ID{id(5)}) {
				t.Errorf("told %v", got)
			}
			if got := receive(t, s.Reports()); got.Finished == nil || got.Finished.ID != id(1) {
				t.Errorf("reported %v", got)
			}

			w.up.Store(c.up)
			w.down.Store(c.down)
			w.open(false)
			w.cut()
			isClosed(t, s.Reports())
			w.up.Store(false)
			w.down.Store(false)
			w.open(true)
			w.cut()
			again := jm.join(t)
			has, err := again.Inventory(t.Context())
			want := []task.RunningTask{{ID: id(2)}, {ID: id(1)}}
			if err != nil || !cmp.Equal(has.Running, want) {
				t.Error(err, cmp.Diff(want, has.Running))
			}
			if got := receive(t, again.Reports()); got.Finished == nil || got.Finished.ID != id(1) {
				t.Errorf("reported again %v", got)
			}
		})
	}
}

// A TaskManager that joins anew is not lost in between: its old session ends
// when the Dispatcher has the new one, and sessions come in the order in which
// they began.
func TestJoinAnew(t *testing.T) {
	jm := newJobManager(t, ServerConfig{})
	joining, joined := make(chan *Session), make(chan bool)
	jm.leadWith(t, 1, func(ctx context.Context, s *Session) error {
		select {
		case joining <- s:
			<-joined
		case <-ctx.Done():
		}
		return nil
	})
	var all []*Session
	for n := range 3 {
		s, err := jm.admit(&hello{Protocol: protocol, Name: "tm1", Incarnation: fmt.Sprint(n), Slots: 1})
		if err != nil {
			t.Fatal(err)
		}
		s.reign.wg.Done() // there is no handler
		all = append(all, s)
		if n > 0 && !all[n-1].isDone() {
			t.Errorf("session %d is talked to while there is another", n-1)
		}
	}
	for n, s := range all {
		if got := receive(t, joining); got != s {
			t.Fatalf("session %d came after %d others", slices.Index(all, got), n)
		}
		if n > 0 && all[n-1].refusal().Error() != `TaskManager "tm1" ` {
			t.Errorf("session %d is over before its successor is known: %v", n-1, all[n-1].refusal())
		}
		joined <- true
		if n > 0 {
			isClosed(t, all[n-1].Reports())
		}
	}
}

// dropped is closed when the session's connection has been given up.
func dropped(s *Session) <-chan struct{} {
	gone := make(chan struct{})
	s.mu.Lock()
	c := s.connection
	s.mu.Unlock()
	go func() {
		defer close(gone)
		if c != nil {
			<-c.over
		}
	}()
	return gone
}
