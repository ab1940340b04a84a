package blob

import (
	"context"
	"fmt"
	"strings"
	"time"

	"trestle/internal/bucket"
)

// Sweep deletes an owner's objects of jobs that aren't among the live ones and
// that nothing was written to since before: what is left when all processes that
// knew of a job have died. It returns how many jobs had any. A job that is
// accepted meanwhile is safe if before is a while ago.
func Sweep(ctx context.Context, b *bucket.Bucket, owner string, live []string, before time.Time) (swept int, err error) {
	keep := make(map[string]bool, len(live))
	for _, job := range live {
		keep[jobPrefix(owner, job)] = true
	}
	own := ownerPrefix(owner)
	young := map[string]bool{}
	var dead []string
	last := ""
	err = b.List(ctx, own, func(o bucket.Object) error {
		name, _, ok := strings.Cut(strings.TrimPrefix(o.Key, own), "/")
		prefix := own + name + "/"
		if !ok || keep[prefix] {
			return nil
		}
		if o.Written.After(before) {
			young[prefix] = true
		}
		if prefix != last { // keys come in order
			dead, last = append(dead, prefix), prefix
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("sweep shuffle objects: %w", err)
	}
	for _, prefix := range dead {
		if young[prefix] {
			continue
		}
		if err := b.DeleteAll(ctx, prefix); err != nil {
			return swept, fmt.Errorf("sweep shuffle objects: %w", err)
		}
		swept++
	}
	return swept, nil
}
