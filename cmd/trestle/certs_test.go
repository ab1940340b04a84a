package main

import (
	"io"
	"path/filepath"
	"testing"

	"trestle/internal/cluster"
)

// Each flag makes certificates for its role, a bare name one for all, a client's
// has none; hosts are said where there is something to be called.
func TestCerts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs")
	certs := func(args ...string) error {
		c := certsCommand()
		c.SetArgs(append([]string{"--dir=" + dir}, args...))
		c.SetOut(io.Discard)
		c.SetErr(io.Discard)
		return c.Execute()
	}
	if err := certs("--jobmanager=jm1=10.0.0.1,jm1.example", "--jobmanager=jm2", "--taskmanager", "tm1=10.0.0.4", "--operator=op", "--client=me", "both=10.0.0.9"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][3]bool{
		"jm1": {true, false, false}, "jm2": {true, false, false}, "tm1": {false, true, false},
		"op": {false, false, true}, "me": {}, "both": {true, true, true},
	} {
		s, err := cluster.LoadSecurity(filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"), filepath.Join(dir, "ca.crt"))
		if err != nil {
			t.Fatal(err)
		}
		if got := [3]bool{s.MayBe(cluster.JobManager), s.MayBe(cluster.TaskManager), s.MayBe(cluster.Operator)}; got != want {
			t.Errorf("%s may be %v, want %v", name, got, want)
		}
	}
	for _, args := range [][]string{nil, {"--client=me2=10.0.0.1"}, {"--jobmanager=jm1"}} {
		if err := certs(args...); err == nil {
			t.Errorf("%v was taken", args)
		}
	}
}
