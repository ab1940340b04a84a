// Command wordcount counts the words of some files with the Beam Go SDK. It is
// an ordinary Beam program: any runner runs it.
//
//	go run ./examples/wordcount --input='docs/*.md' --output=counts.txt \
//	    --runner=universal --endpoint=127.0.0.1:8099 --environment_type=LOOPBACK
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/io/textio"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/transforms/stats"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/transforms/top"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/x/beamx"

	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/io/filesystem/local"
)

var (
	input  = flag.String("input", "", "files to read: patterns separated by commas, or @FILE with a name on each line")
	output = flag.String("output", "", "file to write every word and its count to")
	most   = flag.String("most", "", "file to write the most frequent words to (none if empty)")
	number = flag.Int("number", 10, "how many words are the most frequent ones")
)

func init() {
	register.Function2x0(words)
	register.Function2x1(line)
	register.Function2x1(pair)
	register.Function2x1(rarer)
	register.Function2x0(lines)
	register.Emitter1[string]()
	beam.RegisterType(reflect.TypeFor[counted]())
}

var word = regexp.MustCompile(`[A-Za-z]+`)

// words gives the words of a line.
func words(text string, emit func(string)) {
	for _, w := range word.FindAllString(text, -1) {
		emit(w)
	}
}

// line writes a word and its count as text.
func line(word string, count int) string { return fmt.Sprintf("%s: %d", word, count) }

// A counted word is a value of its own, so that words can be put in order.
type counted struct {
	Word  string
	Count int
}

func pair(word string, count int) counted { return counted{word, count} }

// rarer puts words in order. Words of one count go by the alphabet, so that the
// result is the same each time.
func rarer(a, b counted) bool {
	if a.Count != b.Count {
		return a.Count < b.Count
	}
	return a.Word > b.Word
}

// lines writes the words of a list.
func lines(list []counted, emit func(string)) {
	for _, c := range list {
		emit(line(c.Word, c.Count))
	}
}

// pipeline is the word count.
func pipeline(s beam.Scope, files []string) {
	names := beam.CreateList(s, files)
	text := textio.ReadAll(s, names)
	counts := stats.Count(s.Scope("Count"), beam.ParDo(s.Scope("Split"), words, text))
	textio.Write(s.Scope("WriteCounts"), *output, beam.ParDo(s.Scope("Format"), line, counts))
	if *most != "" {
		largest := top.Largest(s.Scope("Top"), beam.ParDo(s.Scope("Pair"), pair, counts), *number, rarer)
		textio.Write(s.Scope("WriteMost"), *most, beam.ParDo(s.Scope("List"), lines, largest))
	}
}

// files resolves --input on the machine that submits the pipeline.
func files(input string) ([]string, error) {
	if list, ok := strings.CutPrefix(input, "@"); ok {
		names, err := os.ReadFile(list)
		if err != nil {
			return nil, err
		}
		return strings.Fields(string(names)), nil
	}
	var all []string
	for _, pattern := range strings.Split(input, ",") {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return nil, fmt.Errorf("--input: pattern %q: %w", pattern, err)
		}
		all = append(all, found...)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("--input: no file is named %s", input)
	}
	return all, nil
}

func main() {
	flag.Parse()
	beam.Init()
	if *input == "" || *output == "" {
		log.Fatal("wordcount: give --input and --output")
	}
	names, err := files(*input)
	if err != nil {
		log.Fatalf("wordcount: %v", err)
	}
	p, s := beam.NewPipelineWithRoot()
	pipeline(s, names)
	if err := beamx.Run(context.Background(), p); err != nil {
		log.Fatalf("wordcount: %v", err)
	}
}
