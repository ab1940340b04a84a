package side

import (
	"context"
	"errors"
	"sync"
	"testing"

	"trestle/internal/membudget"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tiny returns a build of a view of its own, and counts the calls.
func tiny(t *testing.T, budget *membudget.Budget, calls *int) func(context.Context) (*View, error) {
	return func(context.Context) (*View, error) {
		*calls++
		w := &world{}
		w.add("k", "v", 1)
		return w.build(t, Iterable, Options{Budget: budget}), nil
	}
}

func TestCacheBuildsOnce(t *testing.T) {
	budget := membudget.New(1 << 30)
	c := NewCache(1 << 30)
	calls := 0
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			h, err := c.Acquire(context.Background(), Key{Job: "j"}, tiny(t, budget, &calls))
			if err != nil {
				t.Error(err)
				return
			}
			if data, _, err := h.Values(interval(1), nil, nil); len(data) == 0 || err != nil {
				t.Errorf("%d bytes, %v", len(data), err)
			}
			h.Release()
			h.Release()
		})
	}
	wg.Wait()
	if calls != 1 {
		t.Errorf("built %d times", calls)
	}
	if budget.Used() == 0 {
		t.Error("the idle view was not kept")
	}
	c.DropJob("j")
	if budget.Used() != 0 {
		t.Errorf("%d bytes are still taken", budget.Used())
	}
}

func TestCacheEvictsIdleViews(t *testing.T) {
	budget := membudget.New(1 << 30)
	calls := 0
	build := tiny(t, budget, &calls)
	probe, _ := build(context.Background())
	size := probe.Bytes()
	probe.Close()

	c := NewCache(2 * size)
	use := func(gen string) *Handle {
		h, err := c.Acquire(context.Background(), Key{Generation: gen}, build)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	a, b, d := use("a"), use("b"), use("d")
	if budget.Used() != 3*size {
		t.Errorf("%d bytes taken by three views in use, want %d", budget.Used(), 3*size)
	}
	a.Release()
	b.Release()
	d.Release() // a was used the longest ago
	if calls = 0; budget.Used() != 2*size {
		t.Errorf("%d bytes idle, want %d", budget.Used(), 2*size)
	}
	use("b").Release()
	use("d").Release()
	if calls != 0 {
		t.Errorf("b or d was built again")
	}
	held := use("a")
	if calls != 1 {
		t.Errorf("a was kept")
	}
	c.Drop(func(Key) bool { return true })
	if budget.Used() != size {
		t.Errorf("%d bytes taken, only the view in use should be left", budget.Used())
	}
	held.Release()
	if budget.Used() != 0 {
		t.Errorf("%d bytes are still taken", budget.Used())
	}
}

// The one who builds is cancelled; the one who waits then builds.
func TestCacheSurvivesACancelledBuilder(t *testing.T) {
	c := NewCache(0)
	budget := membudget.New(1 << 30)
	ctx, cancel := context.WithCancel(context.Background())
	started := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := c.Acquire(ctx, Key{}, func(ctx context.Context) (*View, error) {
			close(started)
			<-ctx.Done()
			return nil, errors.New("read failed on the way")
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("builder got %v", err)
		}
	})
	<-started
	calls := 0
	wg.Go(func() {
		h, err := c.Acquire(context.Background(), Key{}, tiny(t, budget, &calls))
		if err != nil {
			t.Error(err)
			return
		}
		h.Release()
	})
	cancel()
	wg.Wait()
	if calls != 1 || budget.Used() != 0 {
		t.Errorf("%d builds, %d bytes taken", calls, budget.Used())
	}
}

func TestCacheTellsFailures(t *testing.T) {
	c := NewCache(0)
	for range 2 { // a failure is not remembered
		calls := 0
		_, err := c.Acquire(context.Background(), Key{}, func(context.Context) (*View, error) {
			calls++
			return nil, errors.New("partition lost")
		})
		if err == nil || err.Error() != "partition lost" || calls != 1 {
			t.Errorf("%v after %d builds", err, calls)
		}
	}
}
