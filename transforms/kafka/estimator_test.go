package kafka

import (
	"math"
	"testing"
	"time"
)

// TestPolicy reads records and rests, and looks at the watermark after each step.
func TestPolicy(t *testing.T) {
	const now = 1_000_000 // milliseconds: the clock at the first step
	type step struct {
		after    int64 // milliseconds since the first step
		record   int64 // its time, if it isn't 0
		caughtUp bool  // a slice ends, and this was said
		want     int64 // of the watermark
	}
	const start = math.MinInt64
	read := func(after, record, want int64) step { return step{after: after, record: record, want: want} }
	rest := func(after, want int64) step { return step{after: after, caughtUp: true, want: want} }
	more := func(after, want int64) step { return step{after: after, want: want} }
	for name, test := range map[string]struct {
		policy Policy
		steps  []step
	}{
		"the greatest time counts":            {Policy{Stamp: ByCreate}, []step{read(0, 500, 500), read(0, 400, 500), read(1, 501, 501), rest(2, 501)}},
		"records may come late by so much":    {Policy{Stamp: ByCreate, MaxDelay: 100 * time.Millisecond}, []step{read(0, 500, 400), read(0, 450, 400), read(0, 700, 600)}},
		"a time to come is now":               {Policy{Stamp: ByCreate}, []step{read(0, now+5000, now), read(1, 7, now)}},
		"who is idle follows the clock":       {Policy{Stamp: ByCreate, IdleAfter: time.Second}, []step{read(0, 500, 500), rest(0, 500), rest(999, 500), rest(1000, now), rest(1500, now+500)}},
		"an empty partition does so, too":     {Policy{Stamp: ByCreate, IdleAfter: time.Second, MaxDelay: time.Second}, []step{rest(0, start), rest(1000, now-1000)}},
		"half a minute if nothing is said":    {Policy{Stamp: ByCreate}, []step{rest(0, start), rest(29_999, start), rest(30_000, now)}},
		"not who has something more":          {Policy{Stamp: ByCreate, IdleAfter: time.Second}, []step{rest(0, start), more(900, start), rest(1800, start), rest(1900, now+900)}},
		"not who has been given something":    {Policy{Stamp: ByCreate, IdleAfter: time.Second}, []step{rest(0, start), read(900, 5, 5), rest(900, 5), rest(1899, 5), rest(1900, now+900)}},
		"never":                               {Policy{Stamp: ByCreate, IdleAfter: -1}, []step{read(0, 500, 500), rest(0, 500), rest(1<<40, 500)}},
		"the broker's times":                  {Policy{Stamp: ByLog}, []step{read(0, 500, 500), read(1, 499, 500), more(1, 500), rest(5000, now+3000)}},
		"processing time":                     {Policy{Stamp: ByProcessing}, []step{read(0, 500, now), read(1, 7, now+1), more(2, now+2), rest(3, now+3)}},
		"the watermark doesn't fall":          {Policy{Stamp: ByProcessing}, []step{rest(10, now+10), read(5, 1, now+10), rest(0, now+10)}},
		"what comes after idleness may lag":   {Policy{Stamp: ByCreate, IdleAfter: time.Second}, []step{rest(0, start), rest(2000, now+1000), read(2001, 5, now+1000)}},
		"a log that rests lets the time pass": {Policy{Stamp: ByLog}, []step{rest(0, now-2000)}},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEstimator(Estimate{At: start})
			some := false
			for i, s := range test.steps {
				if s.record != 0 {
					r := &Record{Time: s.record, ByLog: test.policy.Stamp == ByLog}
					at, err := test.policy.stamp(e, r, now+s.after)
					if err != nil {
						t.Fatal(err)
					}
					if want := s.record; test.policy.Stamp == ByProcessing && at < now || test.policy.Stamp != ByProcessing && at != want {
						t.Errorf("step %d: a record of %d got the time %d", i, s.record, at)
					}
					some = true
				} else {
					test.policy.rest(e, some, s.caughtUp, now+s.after)
					some = false
				}
				if got := e.state().At; got != s.want {
					t.Errorf("step %d: the watermark is %d, want %d", i, got, s.want)
				}
				e = newEstimator(e.state()) // as between two slices
			}
		})
	}
}
