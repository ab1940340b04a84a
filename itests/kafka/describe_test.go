package kafka

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// TestDescribe tells ranges, times and how far a group has read, which franz-go
// has said.
func TestDescribe(t *testing.T) {
	b, tool := need(t)
	topic := newTopic(t, tool, 2)
	do(t, tool, "producer de")
	for i := range 100 {
		do(t, tool, fmt.Sprintf("send de %s 0 %d %s %s", topic, 1000+i, word("k"), word("v")))
	}
	do(t, tool, "close de\ndelete "+topic+" 0 10")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := kgo.NewClient(kgo.SeedBrokers(b.Plain), kgo.ConsumerGroup("g-"+topic), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for committed := false; !committed; {
		f := c.PollFetches(ctx)
		if err := f.Err(); err != nil {
			t.Fatal(err)
		}
		f.EachRecord(func(r *kgo.Record) {
			if r.Offset == 41 {
				if err := c.CommitRecords(ctx, r); err != nil {
					t.Error(err)
				}
				committed = true
			}
		})
	}
	said, err := trestle(t, "kafka", "describe", topic, "--brokers="+b.Plain, "--group=g-"+topic, "--json")
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	type state struct {
		Partition, Start, End, Stable, Committed int64
		First                                    int64 `json:"first_time"`
		Last                                     int64 `json:"last_time"`
	}
	var got []state
	if err := json.Unmarshal(said, &got); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	if want := []state{{0, 10, 100, 100, 42, got[0].First, got[0].Last}, {1, 0, 0, 0, -1, -1, -1}}; len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got[0].Last < 1099 || got[0].First > got[0].Last {
		t.Errorf("times %d to %d", got[0].First, got[0].Last)
	}
	if said, err = trestle(t, "kafka", "describe", topic, "--brokers="+b.Plain, "--group=g-"+topic); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	mustSay(t, string(said), " 58\n")
}

func mustSay(t *testing.T, text, want string) {
	t.Helper()
	if !strings.Contains(text, want) {
		t.Errorf("it doesn't say %q:\n%s", want, text)
	}
}
