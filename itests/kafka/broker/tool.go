package broker

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
)

// A Tool carries out commands with the real Java clients; see Tool.java.
type Tool struct {
	mu      sync.Mutex // one command at a time
	process *process
	in      io.WriteCloser
	out     *bufio.Reader
}

// Tool starts the program. Other brokers of the same cluster stand in for this
// one.
func (b *Broker) Tool(others ...*Broker) (*Tool, error) {
	servers := b.Plain
	for _, o := range others {
		servers += "," + o.Plain
	}
	cmd := exec.Command("java", append(b.args[:len(b.args):len(b.args)], "trestle.kafka.Tool", servers)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, write := io.Pipe() // never closed: Do sees that the process has ended by "exited"
	cmd.Stdout = write
	p, err := startProcess(cmd, b.log)
	if err != nil {
		return nil, err
	}
	t := &Tool{process: p, in: in, out: bufio.NewReaderSize(out, 1<<20)}
	go func() { // ends with the process
		<-p.exited
		write.CloseWithError(errors.New("the Java clients' process has ended"))
	}()
	return t, nil
}

// Close ends the program; transactions that are open stay open.
func (t *Tool) Close() {
	t.in.Close()
	<-t.process.exited
}

// Do carries out a command and returns the lines of its answer.
func (t *Tool) Do(words ...string) ([]string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, err := io.WriteString(t.in, strings.Join(words, " ")+"\n"); err != nil {
		return nil, fmt.Errorf("%s: %w", words[0], err)
	}
	var lines []string
	for {
		line, err := t.out.ReadString('\n')
		if err != nil {
			return nil, fmt.Errorf("%s: %w", words[0], err)
		}
		line = strings.TrimSuffix(line, "\n")
		if line == "ok" {
			return lines, nil
		}
		if text, bad := strings.CutPrefix(line, "error "); bad {
			return nil, fmt.Errorf("%.200s: %s", strings.Join(words, " "), text)
		}
		lines = append(lines, line)
	}
}

// Word is bytes as the tool reads and writes them; nil is null.
func Word(b []byte) string {
	switch {
	case b == nil:
		return "-"
	case len(b) == 0:
		return "~"
	}
	return base64.StdEncoding.EncodeToString(b)
}
