package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// A tester runs plans, and tells what is wrong.
type tester struct {
	client  *client
	results *collector

	mu   sync.Mutex
	bad  int
	runs int
	took map[string]time.Duration // by way
	jobs int                      // makes their names differ
}

// most failures are told; then it is known well enough that something is wrong.
const mostTold = 20

// test runs plans in one job. If that fails as a whole, each gets one of its own.
func (t *tester) test(ctx context.Context, plans []plan, w way) {
	began := time.Now()
	out, err := t.run(ctx, plans, w)
	t.mu.Lock()
	t.took[w.Name] += time.Since(began)
	t.runs += len(plans)
	enough := t.bad > mostTold
	t.mu.Unlock()
	if err != nil && len(plans) > 1 {
		fmt.Printf("seeds %d to %d together, %s: %v\nagain: -first=%d -count=%d -way=%s\n",
			plans[0].Seed, plans[len(plans)-1].Seed, w.Name, err, plans[0].Seed, len(plans), w.Name)
		t.fail()
		if enough {
			return
		}
		for _, p := range plans {
			t.test(ctx, []plan{p}, w)
		}
		return
	}
	for _, p := range plans {
		var what string
		if err != nil {
			what = "fails: " + err.Error()
		} else {
			what = p.wrong(out)
		}
		if what != "" {
			t.fail()
			if !enough {
				fmt.Printf("%v\n%s: %s\nagain: -first=%d -count=1 -way=%s, or with others: -first=%d -count=%d -way=%s\n",
					p, w.Name, what, p.Seed, w.Name, plans[0].Seed, len(plans), w.Name)
			}
		}
	}
}

func (t *tester) fail() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bad++
}

// deaths is how many workers die in a job, of which a bundle bears four.
const deaths = 2

// run runs plans once.
func (t *tester) run(ctx context.Context, plans []plan, w way) (*outcome, error) {
	t.mu.Lock()
	t.jobs++
	name := fmt.Sprintf("generated-%s-%d-%d", w.Name, plans[0].Seed, t.jobs)
	t.mu.Unlock()
	t.results.expect(name, deaths)
	err := t.client.run(ctx, name, build(plans, w, name, t.results), w)
	out := t.results.take(name)
	if err == nil && out.twice != "" {
		err = fmt.Errorf("a result was given twice: %s", out.twice)
	}
	return out, err
}

// wrong tells what is wrong with what came of a plan, "" for nothing.
func (p plan) wrong(out *outcome) string {
	got := out.lines[fmt.Sprint(p.Seed)]
	if p.Fire != nil {
		return p.wrongPanes(got)
	}
	return differ(got, p.result().lines())
}

// summary is how it went.
func (t *tester) summary(count int64, took time.Duration) string {
	s := fmt.Sprintf("%d pipelines, %d runs of them in %v (%.1f a second), %d failures\n",
		count, t.runs, took.Round(time.Second), float64(t.runs)/took.Seconds(), t.bad)
	for _, w := range ways {
		if n := t.took[w.Name]; n > 0 {
			s += fmt.Sprintf("  %s: %v\n", w.Name, n.Round(time.Second/10))
		}
	}
	return s
}
