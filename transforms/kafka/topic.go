package kafka

import (
	"strconv"
	"strings"
	"time"
)

// ReplayTopic replays one topic from one place to another: servers are
// HOST:PORT,… of a cluster without security. What else there is to say can be
// set in the Replay that it gives.
//
//	kafka.ReplayTopic("HOST:9092", "clicks", kafka.Earliest(), kafka.Now()).Pairs(s)
func ReplayTopic(servers, topic string, start, stop Bound) Replay {
	r := Replay{Source: Source{Topics: []string{topic}, Start: start, Stop: stop}}
	for _, s := range strings.Split(servers, ",") {
		if s = strings.TrimSpace(s); s != "" {
			r.Source.Connection.Servers = append(r.Source.Connection.Servers, s)
		}
	}
	return r
}

// Earliest begins with the first record that is still there.
func Earliest() Bound { return Bound{} }

// Now ends with what is there when the job starts.
func Now() Bound { return Bound{} }

// At is the first record of each partition that is of that time or later, or the
// end if there is none. Kafka counts milliseconds; what is less is dropped.
func At(t time.Time) Bound {
	ms := t.UnixMilli()
	return Bound{Time: &ms}
}

// AtOffsets is an offset in each partition that is named. In others it is as if
// nothing were said.
func AtOffsets(offsets map[int32]int64) Bound {
	b := Bound{Offsets: map[string]int64{}}
	for partition, offset := range offsets {
		b.Offsets[strconv.Itoa(int(partition))] = offset
	}
	return b
}
