package node

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"trestle/transforms/kafka"
	"trestle/transforms/kafka/kafkatest"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
)

// TestMain is the main of workers, too, and of who asks sources: they are this
// program.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == AskCommand {
		if err := AnswerSource(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv(replacedVariable) != "" {
		if err := replaceSelf(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	flag.Parse()
	beam.Init() // doesn't return in a worker
	os.Exit(m.Run())
}

// described is a source at a broker, which has a second to answer.
func described(t *testing.T, address string) []byte {
	t.Helper()
	r := kafka.Replay{Source: kafka.Source{
		Topics:     []string{"clicks"},
		Connection: kafka.Connection{Servers: []string{address}, Patience: time.Second, CallTimeout: time.Second},
	}}
	start := map[string]int64{"0": 3}
	r.Source.Start.Offsets, r.Source.EarliestAvailable, r.Source.Uncommitted = start, true, true
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestAskAlone asks a broker by a process of its own.
func TestAskAlone(t *testing.T) {
	value, notes, err := askAlone(t.Context(), described(t, kafkatest.Broker(t, kafkatest.Honest)))
	if err != nil {
		t.Fatal(err)
	}
	// It says 7 for first and last: what was asked for from 3 on is gone.
	var bounds kafka.Bounds
	if err := json.Unmarshal(value, &bounds); err != nil || len(bounds.Ranges) != 0 || bounds.Time == 0 {
		t.Errorf("bounds %s, %v: want none", value, err)
	}
	if len(notes) != 1 || !strings.Contains(notes[0], "the records from 3 to 6 have been deleted") {
		t.Errorf("notes %q", notes)
	}
}

// replacedVariable has a test process begin by replacing its own program.
const replacedVariable = "NODE_TEST_REPLACED"

// replaceSelf is what an upgrade does to a program that runs: its file is gone,
// and another one is in its place, which here can do nothing.
func replaceSelf() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.Remove(self); err != nil {
		return err
	}
	return os.WriteFile(self, []byte("#!/bin/sh\nexit 9\n"), 0o700)
}

// TestAskReplaced: who asks is of our own version, whatever stands at this
// program's path by now.
func TestAskReplaced(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "node.test")
	if err := os.WriteFile(other, program, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), other, "-test.run=^TestAskAlone$", "-test.v")
	cmd.Env = append(os.Environ(), replacedVariable+"=1")
	said, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(said, []byte("--- PASS: TestAskAlone")) {
		t.Errorf("%v: %s", err, said)
	}
	if now, err := os.ReadFile(other); err != nil || len(now) == len(program) {
		t.Errorf("the program was not replaced: %d bytes, %v", len(now), err)
	}
}

// hostile are brokers that want to harm who asks them.
func hostile() map[string]kafkatest.Answerer {
	const giant = int32(1<<31 - 1)
	chance := rand.New(rand.NewPCG(1, 2))
	var mu sync.Mutex
	noise := func(n int) []byte {
		mu.Lock()
		defer mu.Unlock()
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(chance.Uint32())
		}
		return b
	}
	// instead answers one call in its way, and the others honestly.
	instead := func(of int16, answer kafkatest.Answerer) kafkatest.Answerer {
		return func(conn net.Conn, api, version int16, head []byte) []byte {
			if api == of {
				return answer(conn, api, version, head)
			}
			return kafkatest.Honest(conn, api, version, head)
		}
	}
	said := func(all ...any) kafkatest.Answerer {
		return func(_ net.Conn, _, _ int16, head []byte) []byte { return kafkatest.Words(head, all...) }
	}
	return map[string]kafkatest.Answerer{
		"noise": func(conn net.Conn, _, _ int16, _ []byte) []byte {
			_, _ = conn.Write(noise(64 << 10))
			return nil
		},
		"a frame without end": func(conn net.Conn, _, _ int16, head []byte) []byte {
			_, _ = conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(giant)), head...))
			more := make([]byte, 64<<10)
			for err := error(nil); err == nil; {
				_, err = conn.Write(more)
			}
			return nil
		},
		"versions without number":        instead(kafkatest.Versions, said(int16(0), giant)),
		"versions of calls that are not": instead(kafkatest.Versions, said(int16(0), int32(2), int16(-7), int16(0), int16(9), int16(32000), int16(0), int16(9))),
		"brokers without number":         instead(kafkatest.Metadata, said(giant)),
		"topics without number":          instead(kafkatest.Metadata, said(int32(0), int32(1), giant)),
		"offsets without number":         instead(kafkatest.ListOffsets, said(int32(1), "clicks", giant)),
		"noise for metadata": instead(kafkatest.Metadata, func(_ net.Conn, _, _ int16, head []byte) []byte {
			return append(head, noise(1<<10)...)
		}),
		"noise for offsets": instead(kafkatest.ListOffsets, func(_ net.Conn, _, _ int16, head []byte) []byte {
			return append(head, noise(1<<10)...)
		}),
	}
}

// TestAskHostile has a pipeline name a broker that wants to harm who asks it: the
// job's error says so, in bounded time, and this process has lost nothing.
func TestAskHostile(t *testing.T) {
	for name, answer := range hostile() {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("no answer in time"))
			defer cancel()
			address := kafkatest.Broker(t, answer)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			value, _, err := askAlone(ctx, described(t, address))
			runtime.ReadMemStats(&after)
			if err == nil {
				t.Fatalf("it holds %s", value)
			}
			t.Log(err)
			for _, want := range []string{`topic "clicks"`, address} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error doesn't say %q: %v", want, err)
				}
			}
			if len(err.Error()) > 8<<10 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<20 {
				t.Errorf("this process has taken %d bytes", grown)
			}
		})
	}
}

// TestAskEnds: who no longer wants to know has the process gone.
func TestAskEnds(t *testing.T) {
	asked := make(chan struct{}, 16)
	address := kafkatest.Broker(t, func(conn net.Conn, _, _ int16, _ []byte) []byte {
		asked <- struct{}{}
		_, _ = conn.Read(make([]byte, 1)) // until it is closed
		return nil
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("nobody wants to know")
	ended := make(chan error, 1)
	go func() {
		_, _, err := askAlone(ctx, described(t, address))
		ended <- err
	}()
	<-asked
	cancel(gone)
	if err := <-ended; !errors.Is(err, gone) {
		t.Errorf("it ended with %v", err)
	}
}

// TestAskedNothing: what is no description is refused.
func TestAskedNothing(t *testing.T) {
	for _, description := range []string{"", "{", `{"source":{}}`} {
		if _, _, err := askAlone(t.Context(), []byte(description)); err == nil || strings.Contains(err.Error(), "ended the process") {
			t.Errorf("%q: %v", description, err)
		}
	}
}
