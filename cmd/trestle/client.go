package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"

	"trestle/internal/node"
	"trestle/jobservice"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// A client asks a running Trestle.
type client struct {
	jobAddr, webAddr string
	readyFile        string
}

// addressFlags say where the running Trestle is.
func addressFlags(c *cobra.Command, cl *client) {
	d := node.Defaults()
	c.Flags().StringVar(&cl.jobAddr, "job-addr", fromEnv("TRESTLE_JOB_ADDR", d.JobAddr), "job endpoint of the running Trestle, `HOST:PORT`")
	c.Flags().StringVar(&cl.webAddr, "web-addr", fromEnv("TRESTLE_WEB_ADDR", d.WebAddr), "web address of the running Trestle, `HOST:PORT`")
	c.Flags().StringVar(&cl.readyFile, "ready-file", os.Getenv("TRESTLE_READY_FILE"), "ready `FILE` of the running Trestle, which holds both addresses")
}

func fromEnv(name, initial string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return initial
}

func jsonFlag(c *cobra.Command, asJSON *bool) {
	c.Flags().BoolVar(asJSON, "json", false, "print JSON, for programs")
}

// find reads the ready file, if there is one to read.
func (cl *client) find() error {
	if cl.readyFile == "" {
		return nil
	}
	r, err := node.ReadReady(cl.readyFile)
	if err != nil {
		return fmt.Errorf("ready file: %w", err)
	}
	cl.jobAddr, cl.webAddr = r.Job, r.Web
	return nil
}

// get asks the REST API.
func (cl *client) get(ctx context.Context, path string, query url.Values, into any) error {
	if err := cl.find(); err != nil {
		return err
	}
	u := url.URL{Scheme: "http", Host: cl.webAddr, Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("no Trestle answers at %s (start one with: trestle serve; or say where it is with --web-addr): %w", cl.webAddr, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<30))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		var refused struct{ Error string }
		if json.Unmarshal(body, &refused) == nil && refused.Error != "" {
			return errors.New(refused.Error)
		}
		return fmt.Errorf("%s answers %s", cl.webAddr, resp.Status)
	}
	if raw, ok := into.(*json.RawMessage); ok {
		*raw = body
		return nil
	}
	return json.Unmarshal(body, into)
}

// dial connects to the job endpoint.
func (cl *client) dial() (jobpb.JobServiceClient, *grpc.ClientConn, error) {
	if err := cl.find(); err != nil {
		return nil, nil, err
	}
	conn, err := dialJobs(cl.jobAddr)
	if err != nil {
		return nil, nil, err
	}
	return jobpb.NewJobServiceClient(conn), conn, nil
}

func dialJobs(addr string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(jobservice.MaxMessageBytes),
			grpc.MaxCallSendMsgSize(jobservice.MaxMessageBytes)))
}

// said is an error of the job endpoint without gRPC's own words.
func said(err error) error {
	if s, ok := status.FromError(err); ok && err != nil {
		return errors.New(s.Message())
	}
	return err
}

// printJSON prints a value for programs.
func printJSON(c *cobra.Command, v any) error {
	e := json.NewEncoder(c.OutOrStdout())
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// pollEvery is the longest time between two looks at a job.
const pollEvery = 500 * time.Millisecond
