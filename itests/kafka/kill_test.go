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
	usual   time.Duration // that a replay takes when nobody is killed
	replays int
}

// TestKills replays the same records again and again, left alone at first and
// then with a process killed in the middle each time, and reads the same each
// time: no record missing or doubled, and each partition's in their order.
// Meanwhile the topic grows.
func TestKills(t *testing.T) {
	need(t)
	k := newKilling(t)
	undisturbed, kills, records := 10, 5, 20_000
	if *quick {
		undisturbed, kills, records = 2, 1, 8_000
	}
	k.fill(records)
	k.usual = time.Hour
	for range undisturbed {
		began := time.Now()
		out, job := k.begin()
		k.done(job)
		k.usual = min(k.usual, time.Since(began))
		k.check(out, job)
	}
	t.Logf("a replay takes %s", k.usual.Round(time.Millisecond))
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
			if !t.Run(way.name, func(t *testing.T) { k.killOnce(t, way.kill) }) {
				return // what is left behind would only confuse
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

// begin starts a replay of the records that there were at first, and adds more.
func (k *killing) begin() (out, job string) {
	k.t.Helper()
	k.replays++
	out = filepath.Join(k.t.TempDir(), fmt.Sprintf("out%d", k.replays))
	var stops []string
	for p, lines := range k.want {
		var offset int64
		if _, err := fmt.Sscan(strings.Fields(lines[len(lines)-1])[1], &offset); err != nil {
			k.t.Fatal(err)
		}
		stops = append(stops, fmt.Sprintf("%d:%d", p, offset+1))
	}
	slices.Sort(stops)
	job = k.replay(k.servers, k.topic, out, "-c", "trestle.stop.offsets="+strings.Join(stops, ","))
	do(k.t, k.tool, fmt.Sprintf("bulk p %s %d 50 100 0\nflush p", k.topic, k.replays%len(k.want)))
	return out, job
}

// killOnce replays, kills in the middle, and checks. A replay that ends before,
// or in which nobody was there to be killed (mend is nil), is no trial.
func (k *killing) killOnce(t *testing.T, kill func() (mend func())) {
	was := k.t
	k.t = t
	defer func() { k.t = was }()
	for range 10 {
		out, job := k.begin()
		k.await(time.Minute, "the replay runs", func() bool {
			state, _ := k.state(job)
			return state == "RUNNING" || state == "DONE"
		})
		wait := time.NewTimer(time.Duration(k.chance.Float64() * 0.8 * float64(k.usual)))
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
		k.check(out, job)
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
	if n := strings.Count(k.messages(job), "reads is settled"); n != 1 {
		k.t.Errorf("the replay's bounds were settled %d times:\n%.4000s", n, k.messages(job))
	}
	if err := os.RemoveAll(out); err != nil {
		k.t.Error(err)
	}
}

// dumped reads what trestle kafka replay has written, as the Java clients' lines
// have it.
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
