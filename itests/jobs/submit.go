package jobs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/graphx"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// Proto is the pipeline as it is submitted, with workers that a command starts:
// see Boot.
func (s Shape) Proto(ctx context.Context, command string) (*pipepb.Pipeline, error) {
	edges, _, err := s.Pipeline().Build()
	if err != nil {
		return nil, err
	}
	env, err := graphx.CreateEnvironment(ctx, "beam:env:external:v1", func(context.Context) string { return "localhost:1" })
	if err != nil {
		return nil, err
	}
	p, err := graphx.Marshal(edges, &graphx.Options{Environment: env})
	if err != nil {
		return nil, err
	}
	return p, StartBy(p, command)
}

// StartBy has all of a pipeline's workers started by a command.
func StartBy(p *pipepb.Pipeline, command string) error {
	payload, err := proto.Marshal(&pipepb.ProcessPayload{Command: command})
	if err != nil {
		return err
	}
	for _, env := range p.GetComponents().GetEnvironments() {
		env.Urn, env.Payload, env.Dependencies = "beam:env:process:v1", payload, nil
	}
	return nil
}

// Boot writes a script that starts the worker program, as the command of a
// PROCESS environment. Workers' process ids are lines of the file pids in dir.
func Boot(dir, worker string) (string, error) {
	return script(dir, "boot.sh",
		`echo $$ >>'`+filepath.Join(dir, "pids")+`'`,
		`for a; do`,
		`  case $a in --id=*|--logging_endpoint=*|--control_endpoint=*) set -- "$@" "$a";; esac`,
		`  shift`,
		`done`,
		`exec '`+worker+`' --worker=true "$@"`)
}

// PythonBoot is Boot for workers of the Python SDK, which find everything in
// their environment variables.
func PythonBoot(dir, python string) (string, error) {
	return script(dir, "boot-python.sh",
		`echo $$ >>'`+filepath.Join(dir, "pids")+`'`,
		`exec '`+python+`' -m apache_beam.runners.worker.sdk_worker_main`)
}

func script(dir, name string, lines ...string) (string, error) {
	path := filepath.Join(dir, name)
	text := "#!/bin/sh\n" + strings.Join(lines, "\n") + "\n"
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil { // #nosec: it is to be executed
		return "", fmt.Errorf("boot script: %w", err)
	}
	return path, nil
}
