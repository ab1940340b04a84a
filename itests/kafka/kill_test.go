package kafka

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"trestle/itests/kafka/broker"
	"trestle/transforms/kafka"
)

// A killing is a Trestle and a Kafka whose processes are killed while a topic is
// replayed.
type killing struct {
	*group
	brokers []*broker.Broker
	tool    *broker.Tool
	servers string
	topic   string
	want    map[int32][]string
	chance  *rand.Rand
	replays int
}

// A trial is a job that is done again and again, and must come to the same
// whoever is killed.
type trial struct {
	begin func() (out, job string)
	check func(out, job string)
	usual time.Duration // that the job takes when nobody is killed
}

// TestKills replays the same records again and again, left alone at first and
// then with a process killed in the middle each time. What goes to files is the
// same each time: no record missing or doubled, and each partition's in their
// order. What goes to another topic is all there; how much of it is there twice
// is counted. Meanwhile the topic grows.
func TestKills(t *testing.T) {
	need(t)
	k := newKilling(t)
	undisturbed, kills, records := 10, 5, 20_000
	if *quick {
		undisturbed, kills, records = 2, 1, 8_000
	}
	k.fill(records)
	t.Run("files", func(t *testing.T) {
		k.try(t, &trial{begin: k.begin, check: k.check}, undisturbed, kills)
	})
	if t.Failed() {
		return // what is left behind would only confuse
	}
	t.Run("topic", func(t *testing.T) {
		c := &copies{killing: k}
		k.try(t, &trial{begin: c.begin, check: c.check}, 2, kills)
		c.tell(t)
	})
}

// try does a trial some times undisturbed, and then so many times with each kind
// of process killed.
func (k *killing) try(t *testing.T, try *trial, undisturbed, kills int) {
	was := k.t
	k.t = t
	defer func() { k.t = was }()
	try.usual = time.Hour
	for range undisturbed {
		began := time.Now()
		out, job := try.begin()
		k.done(job)
		try.usual = min(try.usual, time.Since(began))
		try.check(out, job)
	}
	t.Logf("undisturbed it takes %s", try.usual.Round(time.Millisecond))
	ways := []struct {
		name string
		kill func() (mend func())
	}{
		{"leader", k.killLeader},
		{"TaskManager", k.killTaskManager},
		{"worker", k.killWorker},
		{"broker", k.killBroker},
	}
	for range kills {
		for _, way := range ways {
			if !t.Run(way.name, func(t *testing.T) { k.killOnce(t, try, way.kill) }) {
				return
			}
		}
	}
}

func newKilling(t *testing.T) *killing {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	brokers, err := broker.StartCluster(ctx, jars(t), t.TempDir(), 3)
	if err != nil {
		t.Fatal(err)
	}
	k := &killing{brokers: brokers, topic: "killed"}
	for _, b := range brokers {
		t.Cleanup(b.Kill)
		k.servers += "," + b.Plain
	}
	k.servers = k.servers[1:]
	if k.tool, err = brokers[0].Tool(brokers[1:]...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.tool.Close)
	seed := uint64(time.Now().UnixNano())
	t.Logf("chance begins with %d", seed)
	k.chance = rand.New(rand.NewPCG(seed, seed))
	k.group = startGroup(t, 3, 2)
	return k
}

// fill writes the records that are to be read, some of them in transactions that
// are aborted.
func (k *killing) fill(records int) {
	const partitions = 6
	do(k.t, k.tool, fmt.Sprintf("topic %s %d\nproducer p linger.ms=20 compression.type=lz4 acks=all\nproducer x transactional.id=x", k.topic, partitions))
	for p := range partitions {
		do(k.t, k.tool, fmt.Sprintf("bulk p %[1]s %[2]d %[3]d 100 0\nflush p\nbegin x\nbulk x %[1]s %[2]d 100 100 0\nabort x\nbulk p %[1]s %[2]d %[3]d 100 %[3]d\nflush p", k.topic, p, records/2))
	}
	k.want = oracle(k.t, k.tool, k.topic)
	for p := range partitions {
		if n := len(k.want[int32(p)]); n != records/2*2 {
			k.t.Fatalf("partition %d has %d records, want %d", p, n, records/2*2)
		}
	}
}

// begin starts a replay to files of the records that there were at first, and
// adds more.
func (k *killing) begin() (out, job string) {
	k.t.Helper()
	k.replays++
	out = filepath.Join(k.t.TempDir(), fmt.Sprintf("out%d", k.replays))
	job = k.replay(k.servers, k.topic, "--out="+out, "-c", "trestle.stop.offsets="+k.stops())
	do(k.t, k.tool, fmt.Sprintf("bulk p %s %d 50 100 0\nflush p", k.topic, k.replays%len(k.want)))
	return out, job
}

// stops are where the records that there were at first end.
func (k *killing) stops() string {
	var stops []string
	for p, lines := range k.want {
		var offset int64
		if _, err := fmt.Sscan(strings.Fields(lines[len(lines)-1])[1], &offset); err != nil {
			k.t.Fatal(err)
		}
		stops = append(stops, fmt.Sprintf("%d:%d", p, offset+1))
	}
	slices.Sort(stops)
	return strings.Join(stops, ",")
}

// killOnce begins, kills in the middle, and checks. A job that ends before, or
// in which nobody was there to be killed (mend is nil), is no trial.
func (k *killing) killOnce(t *testing.T, try *trial, kill func() (mend func())) {
	was := k.t
	k.t = t
	defer func() { k.t = was }()
	for range 10 {
		out, job := try.begin()
		k.await(time.Minute, "the replay runs", func() bool {
			state, _ := k.state(job)
			return state == "RUNNING" || state == "DONE"
		})
		wait := time.NewTimer(time.Duration(k.chance.Float64() * 0.8 * float64(try.usual)))
		<-wait.C
		before, _ := k.state(job)
		mend := kill()
		if mend == nil {
			k.done(job)
			continue
		}
		k.await(30*time.Second, "somebody tells of the job", func() bool {
			state, _ := k.state(job)
			return state != ""
		})
		mend()
		k.done(job)
		try.check(out, job)
		if before == "RUNNING" {
			return
		}
	}
	t.Error("all replays had ended before the kill")
}

// check compares what was written with what the Java client has read.
func (k *killing) check(out, job string) {
	k.t.Helper()
	mustEqual(k.t, dumped(k.t, out), k.want)
	k.settledOnce(job)
	if err := os.RemoveAll(out); err != nil {
		k.t.Error(err)
	}
}

// settledOnce sees that it was found out once what the job reads.
func (k *killing) settledOnce(job string) {
	k.t.Helper()
	if n := strings.Count(k.messages(job), "reads is settled"); n != 1 {
		k.t.Errorf("the replay's bounds were settled %d times:\n%.4000s", n, k.messages(job))
	}
}

// dumped reads what trestle kafka replay has written, as the Java clients' lines
// have it: file after file, line after line, in no other order.
func dumped(t *testing.T, dir string) map[int32][]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(files)
	all := map[int32][]string{}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		d := json.NewDecoder(bufio.NewReader(f))
		for d.More() {
			var m kafka.Message
			if err := d.Decode(&m); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			all[m.Partition] = append(all[m.Partition], messageLine(m))
		}
		f.Close()
	}
	return all
}

func (k *killing) killLeader() func() {
	n := k.leader()
	n.kill()
	return func() { k.start(n) }
}

func (k *killing) killTaskManager() func() {
	n := k.workers[k.chance.IntN(len(k.workers))]
	n.kill()
	return func() { k.start(n) }
}

func (k *killing) killWorker() func() {
	pids := k.harnesses()
	if len(pids) == 0 || syscall.Kill(pids[k.chance.IntN(len(pids))], syscall.SIGKILL) != nil {
		return nil // the replay has just ended, or not begun
	}
	return func() {}
}

func (k *killing) killBroker() func() {
	b := k.brokers[k.chance.IntN(len(k.brokers))]
	b.Kill()
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		if err := b.Restart(ctx); err != nil {
			k.t.Fatal(err)
		}
	}
}
