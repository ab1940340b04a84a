package node

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
)

// Ready is what a ready file holds, as JSON.
type Ready struct {
	Job     string `json:"job,omitempty"`     // HOST:PORT of the job endpoint
	JobTLS  string `json:"jobTLS,omitempty"`  // HOST:PORT of the one for clients with certificates
	Web     string `json:"web,omitempty"`     // HOST:PORT of the web page
	Cluster string `json:"cluster,omitempty"` // HOST:PORT of a JobManager for other processes
	Data    string `json:"data,omitempty"`    // HOST:PORT of a TaskManager for other TaskManagers
	Pool    string `json:"pool,omitempty"`    // HOST:PORT of a worker pool
	// Expansion is HOST:PORT of an expansion service that stands alone.
	Expansion string `json:"expansion,omitempty"`
	PID       int    `json:"pid"`
}

// ReadReady reads a ready file.
func ReadReady(file string) (Ready, error) {
	var r Ready
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	return r, err
}

// WriteReady puts the file in place at once: who waits for it never sees half.
func WriteReady(file string, r Ready) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), ".trestle-ready-")
	if err != nil {
		return err
	}
	_, err = tmp.Write(append(b, '\n'))
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		os.Remove(tmp.Name())
	}
	return err
}
