package kafka

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"trestle/transforms/kafka/kafkatest"
)

// TestSlowCoordinator has a group's coordinator take offsets and never answer: a
// bundle waits for it once, however many partitions it has, and those after it
// read on for a while without asking. When the reading ends each bundle asks, since
// nobody will later.
func TestSlowCoordinator(t *testing.T) {
	var asked atomic.Int64
	address := kafkatest.Broker(t, func(conn net.Conn, api, version int16, head []byte) []byte {
		if api == kafkatest.OffsetCommit {
			asked.Add(1)
			_, _ = conn.Read(make([]byte, 1)) // until it is closed
			return nil
		}
		return kafkatest.Honest(conn, api, version, head)
	})
	how := Reading{Connection: Connection{Servers: []string{address}, CallTimeout: 300 * time.Millisecond}}
	f := liveReader{dialler: dialler{How: how, Topics: []string{"clicks"}}, Group: "g"}
	if err := f.Setup(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := f.Teardown(); err != nil {
			t.Error(err)
		}
	}()
	const partitions = 20
	for i, end := range []int64{unending, unending, 100, 100} {
		f.begin()
		for p := range int32(partitions) {
			if err := f.committed(t.Context(), Piece{Topic: "clicks", Partition: p}, Restriction{Start: int64(i), End: end}); err != nil {
				t.Errorf("partition %d: %v", p, err)
			}
		}
		if got, want := asked.Load(), []int64{1, 1, 2, 3}[i]; got != want {
			t.Errorf("after bundle %d the coordinator has been asked %d times, want %d", i, got, want)
		}
	}
}
