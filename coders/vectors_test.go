package coders_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"trestle/coders"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"go.yaml.in/yaml/v3"
)

// vectorsFile finds Beam's standard_coders.yaml, which every Python SDK brings
// along: in BEAM_STANDARD_CODERS, or in the Python environment of VIRTUAL_ENV,
// TRESTLE_PYTHON or the path.
func vectorsFile(t *testing.T) string {
	if f := os.Getenv("BEAM_STANDARD_CODERS"); f != "" {
		return f
	}
	pythons := []string{os.Getenv("TRESTLE_PYTHON"), filepath.Join(os.Getenv("VIRTUAL_ENV"), "bin", "python"), "python3"}
	const where = "import importlib.util as u; print(u.find_spec('apache_beam').submodule_search_locations[0])"
	for _, python := range pythons {
		out, err := exec.Command(python, "-c", where).Output()
		if err != nil {
			continue
		}
		f := filepath.Join(strings.TrimSpace(string(out)), "portability", "api", "standard_coders.yaml")
		if _, err := os.Stat(f); err == nil {
			return f
		}
	}
	t.Skip("Beam's standard_coders.yaml not found: set BEAM_STANDARD_CODERS to it, or VIRTUAL_ENV to an environment with apache-beam")
	return ""
}

type vectorCoder struct {
	URN        string `yaml:"urn"`
	Payload    string
	Components []vectorCoder
}

// add puts the coder and its components into protos and returns its id.
func (c vectorCoder) add(protos map[string]*pipepb.Coder) string {
	proto := &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: c.URN, Payload: latin1(c.Payload)}}
	for _, part := range c.Components {
		proto.ComponentCoderIds = append(proto.ComponentCoderIds, part.add(protos))
	}
	id := c.URN + "(" + strings.Join(proto.ComponentCoderIds, ",") + ")"
	protos[id] = proto
	return id
}

// latin1 turns a text whose characters stand for bytes into these.
func latin1(s string) []byte {
	var b []byte
	for _, r := range s {
		b = append(b, byte(r))
	}
	return b
}

// TestStandardCoders checks the extent of Beam's own example encodings.
func TestStandardCoders(t *testing.T) {
	data, err := os.ReadFile(vectorsFile(t))
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for dec := yaml.NewDecoder(bytes.NewReader(data)); ; {
		var vector struct {
			Coder    vectorCoder
			Nested   *bool
			Examples map[string]yaml.Node
		}
		if err := dec.Decode(&vector); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if vector.Nested != nil && !*vector.Nested {
			continue // streams hold elements in the nested context only
		}
		protos := map[string]*pipepb.Coder{}
		id := vector.Coder.add(protos)
		if vector.Coder.URN == coders.URNRow {
			if coders.Cuttable(protos, id) {
				t.Error("rows are cuttable")
			}
			continue
		}
		c, err := coders.NewTable(protos).Coder(id)
		if err != nil {
			t.Error(err)
			continue
		}
		for enc := range vector.Examples {
			checkExtent(t, c, latin1(enc))
			checked++
		}
	}
	if checked < 50 {
		t.Errorf("only %d examples found", checked)
	}
	t.Logf("%d examples", checked)
}
