package bundle_test

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"trestle/coders"
	"trestle/fnapi"
	"trestle/runner/bundle/bundletest"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
)

// What our own disk fails at isn't the user's fault, though the user's code raises
// for it; nor is the bundle well if it doesn't. What is refused for another reason
// is the user's.
func TestWhoseStateFails(t *testing.T) {
	full := &os.PathError{Op: "write", Path: "state", Err: syscall.ENOSPC}
	for _, tt := range []struct {
		name    string
		fails   error
		ignores bool
		own     bool
	}{
		{"the disk is full", full, false, true},
		{"the disk is full, and the code goes on", full, true, true},
		{"there is no such state", errors.New("there is no such state"), false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, options{fn: func(c *bundletest.Call, _ *coders.Value) error {
				resp, err := c.State(&fnpb.StateRequest{Request: &fnpb.StateRequest_Append{Append: &fnpb.StateAppendRequest{}}})
				if err == nil && resp.GetError() != "" && !tt.ignores {
					err = errors.New(resp.GetError())
				}
				return err
			}})
			r.stateFails = tt.fails
			_, err := r.run("a:1")
			var user *fnapi.UserError
			if own := errors.Is(err, syscall.ENOSPC); own != tt.own || errors.As(err, &user) == tt.own {
				t.Errorf("%v", err)
			}
			if err == nil || !strings.Contains(err.Error(), tt.fails.Error()) {
				t.Errorf("%v, want %v", err, tt.fails)
			}
		})
	}
}
