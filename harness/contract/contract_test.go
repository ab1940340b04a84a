package contract

import (
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/structpb"
)

// Options beyond the kernel's limit for a variable are in the file alone.
func TestLargeOptionsAreInTheFile(t *testing.T) {
	for _, size := range []int{10, 200 << 10} {
		options, err := structpb.NewStruct(map[string]any{"beam:option:text:v1": strings.Repeat("x", size)})
		if err != nil {
			t.Fatal(err)
		}
		w := Worker{ID: "w", Control: "127.0.0.1:1", Dir: t.TempDir(), Options: options}
		env, err := w.Prepare()
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(w.optionsFile())
		if err != nil || len(text) < size {
			t.Errorf("options file has %d bytes, %v", len(text), err)
		}
		inline := slices.ContainsFunc(env, func(v string) bool { return strings.HasPrefix(v, "PIPELINE_OPTIONS=") })
		if inline != (size < 1000) {
			t.Errorf("%d bytes of options in the environment: %v", size, inline)
		}
		if !slices.Contains(env, `CONTROL_API_SERVICE_DESCRIPTOR=url: "127.0.0.1:1"`) {
			t.Errorf("no control endpoint in %q", env)
		}
	}
}

func TestTrestlesOwnVariablesStay(t *testing.T) {
	got := Inherited([]string{"PATH=/bin", "TRESTLE_TOKEN=secret", "PIPELINE_OPTIONS=old", "PIPELINE_OPTIONS_FILE=old"})
	if !slices.Equal(got, []string{"PATH=/bin"}) {
		t.Errorf("inherited %q", got)
	}
}
