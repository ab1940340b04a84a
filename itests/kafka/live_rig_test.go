package kafka

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"trestle/itests/kafka/broker"
	"trestle/transforms/kafka"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/runners/universal"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// A liveJob is a job that doesn't end by itself.
type liveJob struct {
	t      testing.TB
	client jobpb.JobServiceClient
	id     string
	ended  chan error // what its client says of its end
}

var liveJobs int

// startLive runs a pipeline of this process' functions, until the test ends.
func startLive(t testing.TB, endpoint string, p *beam.Pipeline) *liveJob {
	t.Helper()
	return startLiveIn(t, endpoint, "LOOPBACK", p)
}

// startLiveIn runs it in an environment: in DOCKER, for which this process'
// program is the worker, TaskManagers on other machines do.
func startLiveIn(t testing.TB, endpoint, environment string, p *beam.Pipeline) *liveJob {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	liveJobs++
	name := fmt.Sprintf("live%d", liveJobs)
	for option, value := range map[string]string{"endpoint": endpoint, "environment_type": environment, "job_name": name, "worker_binary": self} {
		if err := flag.Set(option, value); err != nil {
			t.Fatal(err)
		}
	}
	j := &liveJob{t: t, client: jobs(t, endpoint), ended: make(chan error, 1)}
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		_, err := universal.Execute(ctx, p)
		j.ended <- err
	}()
	t.Cleanup(func() {
		if j.id != "" && !ended(j.state()) {
			j.cancel()
		}
		stop()
		select {
		case err := <-j.ended:
			j.ended <- err
		case <-time.After(time.Minute):
			t.Error("the client of a live job has not ended")
		}
	})
	j.await(time.Minute, "the job runs", func() bool {
		select {
		case err := <-j.ended:
			j.ended <- err
			t.Fatalf("the job has ended: %v", err)
		default:
		}
		j.id = runningJob(t, j.client, name)
		return j.id != ""
	})
	return j
}

func jobs(t testing.TB, endpoint string) jobpb.JobServiceClient {
	t.Helper()
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return jobpb.NewJobServiceClient(conn)
}

// runningJob is the id of the job of that name that runs, "" if there is none.
func runningJob(t testing.TB, c jobpb.JobServiceClient, name string) string {
	t.Helper()
	all, err := c.GetJobs(context.Background(), &jobpb.GetJobsRequest{})
	if err != nil {
		return ""
	}
	for _, one := range all.GetJobInfo() {
		if strings.HasPrefix(one.GetJobName(), name) && one.GetState() == jobpb.JobState_RUNNING {
			return one.GetJobId()
		}
	}
	return ""
}

func ended(s jobpb.JobState_Enum) bool {
	return slices.Contains([]jobpb.JobState_Enum{
		jobpb.JobState_DONE, jobpb.JobState_FAILED, jobpb.JobState_CANCELLED, jobpb.JobState_DRAINED,
	}, s)
}

func (j *liveJob) state() jobpb.JobState_Enum {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, err := j.client.GetState(ctx, &jobpb.GetJobStateRequest{JobId: j.id})
	if err != nil {
		return jobpb.JobState_UNSPECIFIED
	}
	return s.GetState()
}

// drain lets the job end with what it has read.
func (j *liveJob) drain() {
	j.t.Helper()
	if _, err := j.client.Drain(context.Background(), &jobpb.DrainJobRequest{JobId: j.id}); err != nil {
		j.t.Fatal(err)
	}
	j.await(2*time.Minute, "the job is drained", func() bool { return ended(j.state()) })
	if s := j.state(); s != jobpb.JobState_DRAINED {
		j.t.Fatalf("the job that was drained is %s", s)
	}
}

func (j *liveJob) cancel() {
	_, _ = j.client.Cancel(context.Background(), &jobpb.CancelJobRequest{JobId: j.id}) // what comes of it is seen
	j.await(time.Minute, "the job is cancelled", func() bool { return ended(j.state()) })
}

func (j *liveJob) await(limit time.Duration, what string, holds func() bool) {
	j.t.Helper()
	await(j.t, limit, what, func() bool {
		j.t.Helper()
		if j.id != "" && j.state() == jobpb.JobState_FAILED {
			select {
			case err := <-j.ended:
				j.ended <- err
				j.t.Fatalf("the job has failed: %v", err)
			case <-time.After(10 * time.Second):
				j.t.Fatal("the job has failed")
			}
		}
		return holds()
	})
}

func await(t testing.TB, limit time.Duration, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	late := time.After(limit)
	for !holds() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

// live is a reading of all that a topic holds, and of what comes.
func live(b *broker.Broker, topics ...string) kafka.Live {
	s := source(b, topics...)
	s.Reset = kafka.FromEarliest
	return kafka.Live{Source: s}
}

// An event is a record as tests think of it.
type event struct {
	partition int32
	at        time.Time
	key       string
}

// A writer writes events with the times that they have.
type writer struct {
	t      testing.TB
	client *kgo.Client
	topic  string
}

func newWriter(t testing.TB, b *broker.Broker, topic string) *writer {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(b.Plain), kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(5*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return &writer{t: t, client: c, topic: topic}
}

// write returns when all events are acknowledged.
func (w *writer) write(events ...event) {
	w.t.Helper()
	var all []*kgo.Record
	for _, e := range events {
		all = append(all, &kgo.Record{Partition: e.partition, Timestamp: e.at, Key: []byte(e.key), Value: []byte("v")})
	}
	if err := w.client.ProduceSync(w.t.Context(), all...).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
}

// A listener reads a topic from its beginning.
type listener struct {
	done sync.WaitGroup

	mu    sync.Mutex
	lines []string // the values
}

// listen begins to read; it ends with the test.
func listen(t testing.TB, b *broker.Broker, topic string) *listener {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(b.Plain), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	l := &listener{}
	ctx, stop := context.WithCancel(context.Background())
	l.done.Go(func() {
		for ctx.Err() == nil {
			f := c.PollFetches(ctx)
			l.mu.Lock()
			f.EachRecord(func(r *kgo.Record) { l.lines = append(l.lines, string(r.Value)) })
			l.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		stop()
		l.done.Wait()
		c.Close()
	})
	return l
}

// heard are the values so far, sorted.
func (l *listener) heard() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(slices.Values(l.lines))
}

// count is how many values there are so far.
func (l *listener) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.lines)
}

// settled are the values when no more come: as many as are wanted, and none in
// the time after.
func (l *listener) settled(t testing.TB, want int) []string {
	t.Helper()
	await(t, time.Minute, fmt.Sprintf("%d values are heard", want), func() bool { return len(l.heard()) >= want })
	quiet := time.NewTimer(300 * time.Millisecond)
	<-quiet.C
	return l.heard()
}

// client is an independent one.
func client(t testing.TB, b *broker.Broker) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(b.Plain))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// groupOffsets are what a consumer group has committed, as an independent client
// sees it, by partition.
func groupOffsets(t testing.TB, b *broker.Broker, group, topic string) map[int32]int64 {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(b.Plain))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	req := kmsg.NewPtrOffsetFetchRequest()
	one := kmsg.NewOffsetFetchRequestGroup()
	one.Group = group
	req.Group, req.Groups = group, append(req.Groups, one)
	answer, err := req.RequestWith(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	all := map[int32]int64{}
	for _, g := range answer.Groups {
		for _, of := range g.Topics {
			for _, p := range of.Partitions {
				if of.Topic == topic && p.Offset >= 0 && p.ErrorCode == 0 {
					all[p.Partition] = p.Offset
				}
			}
		}
	}
	return all
}

// commitRequest is an independent client's.
func commitRequest(group, topic string, offsets map[int32]int64) *kmsg.OffsetCommitRequest {
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group = group
	of := kmsg.NewOffsetCommitRequestTopic()
	of.Topic = topic
	for p, at := range offsets {
		one := kmsg.NewOffsetCommitRequestTopicPartition()
		one.Partition, one.Offset = p, at
		of.Partitions = append(of.Partitions, one)
	}
	req.Topics = append(req.Topics, of)
	return req
}

func containsText(err error, text string) bool { return strings.Contains(err.Error(), text) }

// failure is why a job has failed.
func (j *liveJob) failure(limit time.Duration) error {
	j.t.Helper()
	select {
	case err := <-j.ended:
		j.ended <- err
		if s := j.state(); err == nil || s != jobpb.JobState_FAILED {
			j.t.Fatalf("the job is %s: %v", s, err)
		}
		return err
	case <-time.After(limit):
		j.t.Fatalf("the job has not failed within %s; it is %s", limit, j.state())
	}
	return errors.New("unreachable")
}
