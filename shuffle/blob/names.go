package blob

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"

	"trestle/shuffle/driver"
)

const (
	suffix = ".part"
	// longestName leaves room for two names, index and attempt in the 1,024 bytes
	// of an object's key, and for one name in the 255 that file systems allow.
	longestName = 150
)

const (
	// root is what all keys of this driver begin with.
	root = "shuffle/"
	// nobody owns what has no Config.Owner. No group is called so.
	nobody = "-"
)

// ownerPrefix is what the keys of a group's objects begin with.
func ownerPrefix(owner string) string { return root + safeName(owner) + "/" }

// jobPrefix is what the keys of a job's objects begin with.
func jobPrefix(owner, job string) string { return ownerPrefix(owner) + safeName(job) + "/" }

func (d *Driver) jobPrefix(job string) string { return jobPrefix(d.cfg.Owner(), job) }

// key is the name of a partition's object.
func (d *Driver) key(id driver.PartitionID) string {
	return fmt.Sprintf("%s%s.%d.%d%s", d.jobPrefix(id.Job), safeName(id.Dataset), id.Index, id.Attempt, suffix)
}

// safeName makes one part of a key of a name that may hold anything. Different
// names stay different.
func safeName(name string) string {
	escaped := url.QueryEscape(name)
	if len(escaped) <= longestName && escaped != "" && escaped[0] != '.' {
		return escaped
	}
	sum := sha256.Sum256([]byte(name))
	return "%" + hex.EncodeToString(sum[:]) // an escape never begins with % and 64 digits only
}
