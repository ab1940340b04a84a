// Package contract says what an SDK worker process is told when it starts: the
// arguments and the environment of Beam's SDK container contract.
//
// A boot program reads the arguments, asks the provision service for the rest
// and starts the worker. The worker itself reads the environment (Python,
// Java) or other arguments (Go). A process of ours is told both, so that it may
// be either: `python -m apache_beam.runners.worker.sdk_worker_main` alone is a
// good command for a PROCESS environment.
package contract

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
)

// largestVariable keeps PIPELINE_OPTIONS clear of the kernel's limit of 128 KiB
// for one variable. Larger options are in the file alone, which newer SDKs
// prefer anyway.
const largestVariable = 64 << 10

// A Worker is what one worker process must know.
type Worker struct {
	ID                                            string
	Control, Logging, Artifact, Provision, Status string // HOST:PORT; Status may be empty
	Capabilities                                  []string
	JobID, JobName                                string
	Dir                                           string // the worker's own; Prepare writes into it
	Options                                       *structpb.Struct
}

// optionsFile is where Prepare puts the options.
func (w Worker) optionsFile() string { return filepath.Join(w.Dir, "pipeline_options.json") }

// Prepare writes the options file into w.Dir, which must be there, and returns
// the variables that a worker reads, in the form of os.Environ.
func (w Worker) Prepare() ([]string, error) {
	options := w.Options
	if options == nil {
		options = &structpb.Struct{}
	}
	text, err := protojson.Marshal(options)
	if err != nil {
		return nil, fmt.Errorf("encode pipeline options: %w", err)
	}
	if err := os.WriteFile(w.optionsFile(), text, 0o600); err != nil {
		return nil, err
	}
	env := []string{
		"WORKER_ID=" + w.ID,  // Python, Go
		"HARNESS_ID=" + w.ID, // Java
		"CONTROL_API_SERVICE_DESCRIPTOR=" + descriptor(w.Control),
		"LOGGING_API_SERVICE_DESCRIPTOR=" + descriptor(w.Logging),
		"PIPELINE_OPTIONS_FILE=" + w.optionsFile(),
		"SEMI_PERSISTENT_DIRECTORY=" + w.Dir,
		"RUNNER_CAPABILITIES=" + strings.Join(w.Capabilities, " "),
		"JOB_ID=" + w.JobID,
		"JOB_NAME=" + w.JobName,
	}
	if len(text) <= largestVariable {
		env = append(env, "PIPELINE_OPTIONS="+string(text))
	}
	if w.Status != "" {
		env = append(env, "STATUS_ENDPOINT="+w.Status, "STATUS_API_SERVICE_DESCRIPTOR="+descriptor(w.Status))
	}
	return env, nil
}

// BootArgs are the arguments of a boot program.
func (w Worker) BootArgs() []string {
	return []string{
		"--id=" + w.ID,
		"--provision_endpoint=" + w.Provision,
		"--logging_endpoint=" + w.Logging,
		"--control_endpoint=" + w.Control,
		"--artifact_endpoint=" + w.Artifact,
	}
}

// GoWorkerArgs are the arguments of a Go pipeline's own binary run as a worker.
func (w Worker) GoWorkerArgs() []string {
	return []string{
		"--worker=true",
		"--id=" + w.ID,
		"--logging_endpoint=" + w.Logging,
		"--control_endpoint=" + w.Control,
		"--semi_persist_dir=" + w.Dir,
	}
}

// Inherited are the variables of ours that a worker may see: all but those that
// configure Trestle itself, which may hold secrets, and those that another
// worker was told.
func Inherited(environ []string) []string {
	var kept []string
	for _, v := range environ {
		if !strings.HasPrefix(v, "TRESTLE_") && !strings.HasPrefix(v, "PIPELINE_OPTIONS") {
			kept = append(kept, v)
		}
	}
	return kept
}

// descriptor is an ApiServiceDescriptor in proto text, which is how the SDKs
// read it.
func descriptor(address string) string { return fmt.Sprintf("url: %q", address) }
