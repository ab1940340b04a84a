package node

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// A Size is a number of bytes that people write as 512MiB or 2GB.
type Size int64

var sizeUnits = []struct {
	name  string
	bytes int64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"kB", 1e3},
	{"T", 1 << 40}, {"G", 1 << 30}, {"M", 1 << 20}, {"K", 1 << 10}, {"k", 1 << 10},
	{"B", 1}, {"", 1},
}

// ParseSize reads a Size: a number and a unit of KiB, MiB, GiB, TiB (powers of
// 1024; K, M, G, T for short), KB, MB, GB, TB (of 1000), B, or none.
func ParseSize(s string) (Size, error) {
	t := strings.TrimSpace(s)
	for _, u := range sizeUnits {
		number, ok := strings.CutSuffix(t, u.name)
		if !ok {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || v < 0 || math.IsNaN(v) || v*float64(u.bytes) > math.MaxInt64/2 {
			break
		}
		return Size(v * float64(u.bytes)), nil
	}
	return 0, fmt.Errorf("%.40q is no size; write it like 512MiB or 2GiB", s)
}

// String writes the size in the largest unit that leaves a short number.
func (s Size) String() string {
	for _, u := range sizeUnits[:4] {
		if int64(s) >= u.bytes {
			return strconv.FormatFloat(math.Round(float64(s)/float64(u.bytes)*100)/100, 'f', -1, 64) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}
