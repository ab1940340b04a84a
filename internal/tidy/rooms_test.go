package tidy

// module is the path that all rooms' import paths begin with.
const module = "trestle"

// doors are the rooms through which the outside comes in. They don't know the
// house: a door imports its own folder and plain rooms, and nothing else of
// ours. internal/node joins them.
var doors = []string{"jobservice", "fnapi", "raftmeta", "harness", "shuffle"}

// plain rooms are nouns and small tools that any room may import.
var plain = []string{
	"coders",
	"element",
	"internal/bucket",
	"internal/clock",
	"internal/cluster",
	"internal/invariant",
	"internal/bufpool",
	"internal/membudget",
	"internal/pack",
	"runner/jobgraph",
}

// doorExceptions are imports of doors that the rule forbids.
var doorExceptions = map[string]string{
	"jobservice -> runner/joblog": "joblog is a plain room, the files of a job's messages, that stands in runner's folder",
}

// pure rooms decide and do nothing: no goroutine, lock, clock, chance or I/O.
// Time comes to them in events.
var pure = []string{
	"element",
	"raftmeta/catalog",
	"runner/fusion",
	"runner/graph",
	"runner/jobgraph",
	"runner/pane",
	"runner/region",
	"runner/schedule",
	"runner/trigger",
	"runner/watermark",
	"runner/window",
	"transforms",
}

// impure are the standard packages, with all below them, that a pure room has
// no use for.
var impure = []string{
	"context", "crypto/rand", "log", "math/rand", "net", "os", "sync", "syscall", "testing", "unsafe",
}

// clocks are the functions of package time that a pure room must not call.
var clocks = []string{"After", "AfterFunc", "NewTicker", "NewTimer", "Now", "Since", "Sleep", "Tick", "Until"}

// protoFree rooms must not see a Beam proto, also not through what they import.
var protoFree = []string{"raftmeta/catalog", "runner/schedule"}

// beamProtos is where Beam's protos are.
const beamProtos = "github.com/apache/beam/sdks/v2/go/pkg/beam/model"

// owners names the one package that uses an outside library, so that another
// can take its place. Everyone may use gRPC, protobuf, Beam's protos, and what
// is nearly the standard library.
var owners = map[string]string{
	"github.com/aws/aws-sdk-go-v2":        "internal/bucket",
	"github.com/cespare/xxhash/v2":        "runner/group",
	"github.com/cockroachdb/pebble/v2":    "runner/state",
	"github.com/hashicorp":                "raftmeta",
	"github.com/klauspost/compress":       "internal/pack",
	"github.com/prometheus/client_golang": "internal/node",
	"github.com/rclone/gofakes3":          "internal/bucket/buckettest",
	"github.com/segmentio/kafka-go":       "transforms/kafka",
	"github.com/spf13/cobra":              "cmd/trestle",
	"github.com/spf13/pflag":              "cmd/trestle",
	"github.com/twmb/franz-go":            "bench/kafka",
	"go.etcd.io/bbolt":                    "raftmeta",
	"go.yaml.in/yaml/v3":                  "internal/node",
	"gocloud.dev":                         "internal/bucket",
}

// shared libraries belong to nobody.
var shared = []string{beamProtos, "golang.org/x", "google.golang.org/grpc", "google.golang.org/protobuf"}

// beamUsers may use the Beam Go SDK itself, of which pipelines are made.
var beamUsers = []string{"bench", "examples", "transforms/kafka", "cmd/trestle", "itests"}

// ownerExceptions are uses of a library outside the package that owns it.
var ownerExceptions = map[string]string{
	"bench/kafka -> github.com/segmentio/kafka-go":   "a plain loop over it is what a replay is measured by",
	"runner/bundle -> github.com/cespare/xxhash/v2":  "spreads keys over sub-partitions: no package of its own for one call",
	"runner/side -> github.com/cespare/xxhash/v2":    "finds keys in an index: no package of its own for one call",
	"runner/task -> github.com/cespare/xxhash/v2":    "tells keys apart: no package of its own for one call",
	"shuffle/blob -> github.com/cespare/xxhash/v2":   "block checksums: no package of its own for one call",
	"shuffle/driver -> github.com/cespare/xxhash/v2": "block checksums: no package of its own for one call",
	"shuffle/memory -> github.com/cespare/xxhash/v2": "block checksums: no package of its own for one call",
}

// forbiddenNames say nothing about a package.
var forbiddenNames = []string{"common", "helper", "helpers", "manager", "types", "util", "utils"}

// Limits of length in lines.
const (
	longestFunction = 70
	longestFile     = 500
)

// longFunctions and longFiles are the exceptions, with the lines that they
// have. They may get shorter, never longer.
var (
	longFunctions = map[string]int{
		"internal/node.TestServe": 81,
	}
	longFiles = map[string]int{}
)
