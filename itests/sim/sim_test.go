package sim

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"testing"
	"time"
)

var (
	seeds = flag.Uint64("seeds", 2000, "how many worlds to run")
	seed  = flag.Uint64("seed", 0, "the one world to run")
	trace = flag.Bool("tell", false, "tell what happens")
)

// TestFailover loses leaders, TaskManagers, messages and partitions while jobs
// run. The world then heals, and every job must end as if nothing had happened.
func TestFailover(t *testing.T) {
	first, last := uint64(1), *seeds
	if *seed > 0 {
		first, last = *seed, *seed
	}
	var log io.Writer
	if *trace {
		log = os.Stdout
	}
	var sum totals
	for n := first; n <= last; n++ {
		c := newCluster(n, kinds[n%uint64(len(kinds))], log)
		if err := c.live(); err != nil {
			t.Errorf("seed %d (%s) at %v: %v\nreplay: go test ./itests/sim -run Failover -seed=%d -tell", n, c.kind.name, c.w.Now, err, n)
			if sum.failed++; sum.failed == 5 {
				break
			}
		}
		sum.add(c)
	}
	t.Log(sum)
}

// live runs the world to its end.
func (c *cluster) live() (err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case fault:
			err = errors.New(string(r))
		default:
			err = fmt.Errorf("%v\n%s", r, debug.Stack())
		}
	}()
	bad := c.w.Between(10*time.Second, 40*time.Second)
	c.net.drop, c.net.twin = 0.03, 0.03
	if c.kind.tasks {
		c.failing = 0.05
	}
	c.unkind(bad)
	c.w.After(bad, c.heal)
	c.w.RunUntil(func() bool { return false }, bad)
	if !c.w.RunUntil(c.finished, bad+time.Hour) {
		return fmt.Errorf("jobs don't end:\n%s", c.check.truth)
	}
	c.w.RunUntil(func() bool { return false }, c.w.Now+10*time.Second)
	c.w.RunUntil(c.finished, c.w.Now+time.Minute)
	c.check.over()
	return nil
}

// totals tell whether worlds are worth their while.
type totals struct {
	worlds, failed, terms, entries, starts, resets, reruns, doubled int
}

func (s *totals) add(c *cluster) {
	s.worlds++
	s.terms += len(c.leaders)
	s.entries += len(c.check.entries)
	s.starts += len(c.check.starts)
	s.resets += c.check.resets
	s.reruns += c.check.reruns
	s.doubled += c.check.doubled
}

func (s totals) String() string {
	return fmt.Sprintf("%d worlds, %d failed: %d terms, %d entries, %d attempts, %d resets, %d finished tasks run again, %d tasks run twice at once", s.worlds, s.failed, s.terms, s.entries, s.starts, s.resets, s.reruns, s.doubled)
}
