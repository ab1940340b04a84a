// Package kafkatest is a fake Kafka broker that answers what a test wants, be it
// nothing or nonsense.
//
// It knows as much of the protocol as it takes to be found: what is right is
// tested with a real broker (itests/kafka).
package kafkatest

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"
)

// An Answerer gives what a broker answers to a call, from the correlation on,
// or writes to the connection itself and gives nil.
type Answerer func(conn net.Conn, api, version int16, head []byte) []byte

// Broker listens until the test ends, and answers whatever comes.
func Broker(t *testing.T, answer Answerer) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[conn] = true
			mu.Unlock()
			work.Go(func() { talk(conn, answer) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		work.Wait()
	})
	return l.Addr().String()
}

func talk(conn net.Conn, answer Answerer) {
	defer conn.Close()
	for {
		var size [4]byte
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return
		}
		call := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(conn, call); err != nil || len(call) < 8 {
			return
		}
		api, version := int16(binary.BigEndian.Uint16(call)), int16(binary.BigEndian.Uint16(call[2:]))
		said := answer(conn, api, version, call[4:8])
		if said == nil {
			return
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(said))), said...)); err != nil {
			return
		}
	}
}

// Calls, by their numbers.
const (
	ListOffsets  = 2
	Metadata     = 3
	OffsetCommit = 8
	Coordinator  = 10
	Versions     = 18
)

// Words puts numbers of 1, 2, 4 and 8 bytes and texts one after another.
func Words(b []byte, all ...any) []byte {
	for _, w := range all {
		switch w := w.(type) {
		case int8:
			b = append(b, byte(w))
		case int16:
			b = binary.BigEndian.AppendUint16(b, uint16(w))
		case int32:
			b = binary.BigEndian.AppendUint32(b, uint32(w))
		case int64:
			b = binary.BigEndian.AppendUint64(b, uint64(w))
		case string:
			b = append(binary.BigEndian.AppendUint16(b, uint16(len(w))), w...)
		}
	}
	return b
}

// Honest answers as a broker that has one topic, "clicks", of one partition, of
// which all records before 7 have been deleted and none has come since. It is the
// coordinator of all groups, and doesn't answer what they want of it.
func Honest(conn net.Conn, api, _ int16, head []byte) []byte {
	host, _, _ := net.SplitHostPort(conn.LocalAddr().String())
	port := conn.LocalAddr().(*net.TCPAddr).Port
	switch api {
	case Versions:
		return Words(head, int16(0), int32(5), int16(ListOffsets), int16(1), int16(1), int16(OffsetCommit), int16(2), int16(2),
			int16(Coordinator), int16(0), int16(0), int16(Metadata), int16(1), int16(1), int16(Versions), int16(0), int16(0))
	case Metadata:
		return Words(head, int32(1), int32(1), host, int32(port), int16(-1), int32(1),
			int32(1), int16(0), "clicks", int8(0), int32(1), int16(0), int32(0), int32(1), int32(1), int32(1), int32(1), int32(1))
	case Coordinator:
		return Words(head, int16(0), int32(1), host, int32(port))
	case ListOffsets:
		return Words(head, int32(1), "clicks", int32(1), int32(0), int16(0), int64(-1), int64(7))
	}
	return nil
}
