package kafka

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// pythonMust is python that must succeed.
func pythonMust(t *testing.T, args ...string) {
	t.Helper()
	if said, err := python(t, args...); err != nil {
		t.Fatalf("%s: %v\n%s", args[0], err, said)
	}
}

// after are the oracle's lines without what begins them: from the key on.
func after(all []string, words int) []string {
	var out []string
	for _, l := range all {
		out = append(out, strings.Join(strings.Fields(l)[words:], " "))
	}
	slices.Sort(out)
	return out
}

// TestWriteRows writes what is more than pairs of bytes, and reads it with the
// Java consumer.
func TestWriteRows(t *testing.T) {
	b, tool := need(t)
	job := serve(t)
	t.Run("nulls", func(t *testing.T) {
		topic := newTopic(t, tool, 2)
		pythonMust(t, "nulls", job, b.Plain, topic)
		want := []string{"- -", "- " + word("v"), word("k") + " -", word("k") + " " + word("v"), "~ ~"}
		slices.Sort(want)
		mustBe(t, after(flat(oracle(t, tool, topic)), 3), want)
	})
	t.Run("headers", func(t *testing.T) {
		topic := newTopic(t, tool, 2)
		pythonMust(t, "headers", job, b.Plain, topic)
		got := oracle(t, tool, topic)
		if want := "1 0 5000 " + word("a") + " " + word("1") + " h=" + word("x") + " h=" + word("y"); len(got[1]) != 1 || got[1][0] != want {
			t.Errorf("partition 1: %q, want %q", got[1], want)
		}
		mustBe(t, after(got[0], 3), []string{word("b") + " -"})
	})
	for format, want := range map[string][]string{
		"RAW": {"raw0", "raw1", "raw2"}, "STRING": {"text 0", "text 1", "text 2"},
		"JSON": {
			`{"word":"w\"0","n":0,"x":0,"yes":true,"list":[0,1],"inner":{"b":"eA=="}}`,
			`{"word":"w\"1","n":1,"x":0.5,"yes":false,"list":[1,2],"inner":{"b":"eA=="}}`,
			`{"word":"w\"2","n":2,"x":1,"yes":true,"list":[2,3],"inner":{"b":"eA=="}}`,
		},
	} {
		t.Run(format, func(t *testing.T) {
			topic := newTopic(t, tool, 1)
			pythonMust(t, "format", job, b.Plain, topic, format)
			got := values(oracle(t, tool, topic)[0])
			slices.Sort(got)
			mustBe(t, got, want)
		})
	}
}

// TestJSONRows reads rows of a JSON Schema; what is none is told by its place.
func TestJSONRows(t *testing.T) {
	b, tool := need(t)
	job := serve(t)
	const schema = `{"type":"object","required":["word"],"properties":{
		"word":{"type":"string"},"n":{"type":"integer"},
		"inner":{"type":"object","properties":{"x":{"type":"number"}}},"list":{"type":"array","items":{"type":"boolean"}}}}`
	topic := newTopic(t, tool, 1)
	send := func(text string) {
		do(t, tool, "send json "+topic+" 0 1 - "+word(text)+"\nflush json")
	}
	do(t, tool, "producer json")
	send(`{"word":"a","n":7,"inner":{"x":1.5},"list":[true,false],"more":1}`)
	send(`{"word":"b"}`)
	out := filepath.Join(t.TempDir(), "out")
	pythonMust(t, "json", job, b.Plain, topic, out, schema)
	mustBe(t, sortedLines(t, out+"*"), []string{"a 7 1.5 [True, False]", "b None None None"})
	send(`{"n":7}`)
	said, err := python(t, "json", job, b.Plain, topic, out, schema)
	if want := "word: it is null or not there, and the schema requires it"; err == nil || !strings.Contains(string(said), want) ||
		!strings.Contains(string(said), fmt.Sprintf(`partition 0 of topic \"%s\": record 2`, topic)) && !strings.Contains(string(said), fmt.Sprintf(`partition 0 of topic "%s": record 2`, topic)) {
		t.Errorf("%v:\n%.6000s", err, said)
	}
	do(t, tool, "close json")
}

// TestManaged writes and reads by Beam's Managed.
func TestManaged(t *testing.T) {
	b, tool := need(t)
	topic := newTopic(t, tool, 2)
	out := filepath.Join(t.TempDir(), "out")
	pythonMust(t, "managed", serve(t), b.Plain, topic, out)
	mustBe(t, sortedLines(t, out+"*"), []string{"m0", "m1", "m2", "m3", "m4"})
}

// TestYAML runs Beam YAML's own program: from one topic to another, and to a
// file.
func TestYAML(t *testing.T) {
	b, tool := need(t)
	job := serve(t)
	from, to := newTopic(t, tool, 2), newTopic(t, tool, 1)
	do(t, tool, fmt.Sprintf("producer y\nsend y %[1]s 0 1 - %[2]s\nsend y %[1]s 1 1 - %[3]s\nclose y", from, word("one"), word("two")))
	dir := t.TempDir()
	file := filepath.Join(dir, "pipeline.yaml")
	text := strings.NewReplacer("JOB", job, "SERVERS", b.Plain, "FROM", from, "TO", to, "DIR", dir).Replace(`
pipeline:
  transforms:
    - type: ReadFromKafka
      name: Read
      config:
        bootstrap_servers: SERVERS
        topic: FROM
        format: STRING
        consumer_config: {trestle.stop: now}
    - type: WriteToKafka
      input: Read
      config:
        bootstrap_servers: SERVERS
        topic: TO
        format: JSON
    - type: WriteToText
      input: Read
      config:
        path: DIR/out
providers:
  - type: renaming
    transforms:
      ReadFromKafka: ReadFromKafka
      WriteToKafka: WriteToKafka
    config:
      mappings:
        ReadFromKafka: {bootstrap_servers: bootstrap_servers, topic: topic, format: format, consumer_config: consumer_config_updates}
        WriteToKafka: {bootstrap_servers: bootstrap_servers, topic: topic, format: format}
      underlying_provider:
        type: remote
        transforms:
          ReadFromKafka: 'beam:schematransform:org.apache.beam:kafka_read:v1'
          WriteToKafka: 'beam:schematransform:org.apache.beam:kafka_write:v1'
        config:
          address: 'JOB'
`)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	program, err := filepath.Abs(filepath.Join(*cacheDir, "venv", "bin", "python"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "-m", "apache_beam.yaml.main", "--yaml_pipeline_file="+file,
		"--runner=PortableRunner", "--job_endpoint="+job, "--environment_type=LOOPBACK")
	cmd.Dir = dir
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	mustBe(t, sortedLines(t, filepath.Join(dir, "out*")), []string{"one", "two"})
	got := values(oracle(t, tool, to)[0])
	slices.Sort(got)
	for i, v := range []string{"one", "two"} {
		var row struct{ Payload string }
		if err := json.Unmarshal([]byte(got[i]), &row); err != nil || row.Payload != v {
			t.Errorf("%q: %v", got[i], err)
		}
	}
}
