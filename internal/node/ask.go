package node

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"trestle/harness/child"
	"trestle/transforms/kafka"
)

// A source's brokers are named by a pipeline, and may be anybody. What they
// answer is read by a client that isn't ours and takes them at their word: a
// length that is not true costs it all memory, or panics in a goroutine of its
// own, where nobody can recover. So the leader has them asked by a process that
// may die of that: this same program, started with AskCommand, with bounded
// memory and time, that is sent the source's description and sends what it holds.

// AskCommand is the argument with which this program answers for AnswerSource.
const AskCommand = "ask-source"

const (
	// mostAskMemory bounds what the process that asks may have, in bytes. Batches
	// are counted by looking into them where a number of records is wanted.
	mostAskMemory = 1 << 30
	// mostDescription bounds a source's description, in bytes: it is a part of a
	// pipeline that was taken.
	mostDescription = 64 << 20
	// mostAnswer bounds what the process may say, in bytes: bounds in base64, and
	// notes.
	mostAnswer = 16 << 20
	// mostWords is how much is kept of what it says when it dies.
	mostWords = 4 << 10
)

// An askAnswer is what the process says at its end.
type askAnswer struct {
	Value []byte   `json:"value,omitempty"`
	Notes []string `json:"notes,omitempty"`
	Error string   `json:"error,omitempty"`
}

// askAlone finds out in a process of its own what a described source holds. It
// returns when that process is gone.
func askAlone(ctx context.Context, description []byte) (value []byte, notes []string, err error) {
	self, err := child.Self()
	if err != nil {
		return nil, nil, fmt.Errorf("ask the source's brokers: %w", err)
	}
	cmd := exec.CommandContext(ctx, self, AskCommand)
	cmd.Args[0] = os.Args[0]
	cmd.WaitDelay = time.Second
	said, words := &bounded{most: mostAnswer}, &firstWords{}
	cmd.Stdout, cmd.Stderr = said, words
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, fmt.Errorf("ask the source's brokers: %w", err)
	}
	if err := cmd.Start(); err != nil {
		in.Close()
		return nil, nil, fmt.Errorf("ask the source's brokers: %w", err)
	}
	// An error is the process' end, which Wait tells. The pipe stays open: as long
	// as it is, we want to know.
	_, _ = in.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(description))), description...))
	err = cmd.Wait()
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	var a askAnswer
	if err == nil {
		err = json.Unmarshal(said.b.Bytes(), &a)
	}
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("%s: their answers have ended the process that asked: %w: %s; is this a Kafka broker?",
			kafka.Asked(description), err, words)
	case a.Error != "":
		return nil, nil, errors.New(a.Error)
	}
	return a.Value, a.Notes, nil
}

// AnswerSource is the process' part: it reads a description from in, and writes
// to out what the source holds. It gives up when in ends. The process must do
// nothing else: its memory is bounded from now on.
func AnswerSource(ctx context.Context, in io.Reader, out io.Writer) error {
	debug.SetMemoryLimit(mostAskMemory / 2)
	if err := syscall.Setrlimit(syscall.RLIMIT_DATA, &syscall.Rlimit{Cur: mostAskMemory, Max: mostAskMemory}); err != nil {
		return fmt.Errorf("bound the process' memory: %w", err)
	}
	var size [4]byte
	if _, err := io.ReadFull(in, size[:]); err != nil {
		return fmt.Errorf("read a source's description: %w", err)
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > mostDescription {
		return fmt.Errorf("a source's description of %d bytes; it may have %d", n, mostDescription)
	}
	description := make([]byte, n)
	if _, err := io.ReadFull(in, description); err != nil {
		return fmt.Errorf("read a source's description: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() { // ends with the process: a read of a pipe can't be ended
		_, _ = io.Copy(io.Discard, in)
		cancel(errors.New("who asked is gone"))
	}()
	var a askAnswer
	var err error
	if a.Value, a.Notes, err = kafka.Bind(ctx, description); err != nil {
		a.Error = err.Error()
	}
	return json.NewEncoder(out).Encode(a)
}

// bounded keeps what is written, and refuses more than most bytes.
type bounded struct {
	b    bytes.Buffer
	most int
}

// Write refuses what is too much.
func (w *bounded) Write(p []byte) (int, error) {
	if w.b.Len()+len(p) > w.most {
		return 0, fmt.Errorf("the answer has more than %d bytes", w.most)
	}
	return w.b.Write(p)
}

// firstWords keeps the beginning of what is written.
type firstWords struct{ b []byte }

// Write never fails.
func (w *firstWords) Write(p []byte) (int, error) {
	w.b = append(w.b, p[:min(len(p), mostWords-len(w.b))]...)
	return len(p), nil
}

// String is the first line: of a Go program that dies it says of what.
func (w *firstWords) String() string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(w.b)), "\n")
	return strings.ToValidUTF8(line, "\uFFFD")
}
