package kafka

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/graph/window"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/transforms/stats"
)

func init() {
	register.Function1x2(byChunk)
	register.Function2x1(keyText)
	register.Function2x2(countLine)
	beam.RegisterType(reflect.TypeFor[dumpFn]())
	beam.RegisterType(reflect.TypeFor[countsFn]())
	register.Iter1[Message]()
	register.Iter1[string]()
}

// DumpPipeline is a pipeline that writes a replay's records to files in dir, as
// lines of JSON: a file for each so many offsets of a partition, in order.
func DumpPipeline(ctx context.Context, r Replay, dir string) (*pipepb.Pipeline, error) {
	p, s := beam.NewPipelineWithRoot()
	beam.ParDo0(s, &dumpFn{Dir: dir}, beam.GroupByKey(s, beam.ParDo(s, byChunk, r.Messages(s))))
	return pipelineProto(ctx, p)
}

// CountPipeline is a pipeline that counts a replay's records by key and window
// of event time, and writes a file for each window to dir.
func CountPipeline(ctx context.Context, r Replay, size time.Duration, dir string) (*pipepb.Pipeline, error) {
	p, s := beam.NewPipelineWithRoot()
	keys := beam.ParDo(s, keyText, r.Pairs(s))
	counts := stats.Count(s, beam.WindowInto(s, window.NewFixedWindows(size), keys))
	beam.ParDo0(s, &countsFn{Dir: dir}, beam.GroupByKey(s, beam.ParDo(s, countLine, counts)))
	return pipelineProto(ctx, p)
}

func pipelineProto(ctx context.Context, p *beam.Pipeline) (*pipepb.Pipeline, error) {
	f, err := build(ctx, p)
	return f.Pipeline, err
}

// chunkOffsets is how many offsets a file of a dump stands for.
const chunkOffsets = 100_000

func byChunk(m Message) (string, Message) {
	return fmt.Sprintf("%s-%d-%020d", m.Topic, m.Partition, m.Offset/chunkOffsets*chunkOffsets), m
}

func keyText(key, _ []byte) string { return string(key) }

func countLine(key string, n int) (int, string) { return 0, fmt.Sprintf("%d\t%q", n, key) }

// dumpFn writes one file. It may be tried again: the file is then the same.
type dumpFn struct{ Dir string }

func (f *dumpFn) ProcessElement(name string, messages func(*Message) bool) error {
	var all []Message
	for m := (Message{}); messages(&m); {
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b Message) int { return cmp.Compare(a.Offset, b.Offset) })
	var out bytes.Buffer
	w := json.NewEncoder(&out)
	for _, m := range all {
		if err := w.Encode(m); err != nil {
			return err
		}
	}
	return appear(f.Dir, name+".jsonl", out.Bytes())
}

// countsFn writes one window's counts.
type countsFn struct{ Dir string }

func (f *countsFn) ProcessElement(w beam.Window, _ int, lines func(*string) bool) error {
	var all []string
	for l := ""; lines(&l); {
		all = append(all, l)
	}
	slices.Sort(all)
	var out bytes.Buffer
	b := bufio.NewWriter(&out)
	for _, l := range all {
		fmt.Fprintln(b, l)
	}
	if err := b.Flush(); err != nil {
		return err
	}
	name := "counts.tsv"
	if i, ok := w.(window.IntervalWindow); ok {
		name = "counts-" + time.UnixMilli(int64(i.Start)).UTC().Format("20060102T150405Z") + ".tsv"
	}
	return appear(f.Dir, name, out.Bytes())
}

// appear writes a file that is there whole or not at all.
func appear(dir, name string, text []byte) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { // #nosec: results are for others, too
		return err
	}
	temp, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name()) // fails once it has its name
	if _, err := temp.Write(text); err != nil {
		temp.Close()
		return err
	}
	if err := temp.Close(); err != nil {
		return err
	}
	return os.Rename(temp.Name(), filepath.Join(dir, name))
}
