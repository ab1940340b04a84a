package localdisk

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"path/filepath"

	"trestle/shuffle/driver"
)

const (
	unfinishedSuffix = ".tmp"
	finishedSuffix   = ".part"
	// longestName leaves room for index, attempt and suffix in the 255 bytes
	// that file systems allow.
	longestName = 150
)

// jobDir is the directory of a job's partitions.
func (d *Driver) jobDir(job string) string {
	return filepath.Join(d.dir, "job-"+safeName(job))
}

// path is the name of a finished partition.
func (d *Driver) path(id driver.PartitionID) string {
	name := fmt.Sprintf("%s.%d.%d%s", safeName(id.Dataset), id.Index, id.Attempt, finishedSuffix)
	return filepath.Join(d.jobDir(id.Job), name)
}

// safeName makes one path element of a name that may hold anything. Different
// names stay different.
func safeName(name string) string {
	escaped := url.QueryEscape(name)
	if len(escaped) <= longestName {
		return escaped
	}
	sum := sha256.Sum256([]byte(name))
	return "%" + hex.EncodeToString(sum[:]) // an escape never begins with % and 64 digits only
}
