package metrics

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

var deterministic = proto.MarshalOptions{Deterministic: true}

// Bounds of a trie, whatever an SDK asks for. A trie deeper than maxTrieDepth
// is refused, so that recursion is bounded.
const (
	maxTrieLeaves     = 10_000
	defaultTrieLeaves = 100
	maxTrieDepth      = 1000
)

// A trie is a set of paths (such as names of files and tables read) in which
// the fullest folders are cut to a prefix when there are too many leaves.
type trie struct {
	bound int // leaves allowed; the least that any SDK asked for
	root  *trieNode
}

// A trieNode without children is a leaf. A truncated one has none, and stands
// for all that begins with its path.
type trieNode struct {
	truncated bool
	children  map[string]*trieNode
	leaves    int // of this subtree, 1 or more
}

func (c *trie) fold(b []byte) (bool, error) {
	var told pipepb.BoundedTrie
	if err := proto.Unmarshal(b, &told); err != nil {
		return true, errPayload
	}
	root, err := readTrie(told.GetRoot(), 0)
	if err != nil {
		return true, err
	}
	if s := told.GetSingleton(); len(s) > 0 {
		if len(s) > maxTrieDepth {
			return true, errPayload
		}
		root = &trieNode{leaves: 1}
		for at := root; len(s) > 0; s = s[1:] {
			next := &trieNode{leaves: 1}
			at.children = map[string]*trieNode{s[0]: next}
			at = next
		}
	}
	if root == nil {
		return true, nil
	}
	bound := min(int(told.GetBound()), maxTrieLeaves)
	if bound <= 0 {
		bound = defaultTrieLeaves
	}
	if c.root == nil {
		c.root, c.bound = root, bound
	} else {
		c.root.merge(root)
		c.bound = min(c.bound, bound)
	}
	for c.root.leaves > c.bound {
		c.root.trim()
	}
	return true, nil
}

func (c *trie) append(dst []byte) []byte {
	told := &pipepb.BoundedTrie{Bound: int32(c.bound)}
	if c.root != nil {
		told.Root = c.root.proto()
	}
	dst, err := deterministic.MarshalAppend(dst, told)
	if err != nil { // a label that is no UTF-8 can't have come through Unmarshal
		return dst
	}
	return dst
}

func (c *trie) text() string {
	var paths []string
	if c.root != nil {
		c.root.walk("", func(path string) { paths = append(paths, path) })
	}
	return "{" + strings.Join(paths, ", ") + "}"
}

func readTrie(told *pipepb.BoundedTrieNode, depth int) (*trieNode, error) {
	if told == nil {
		return nil, nil
	}
	if depth > maxTrieDepth {
		return nil, errPayload
	}
	n := &trieNode{truncated: told.GetTruncated(), leaves: 1}
	if n.truncated || len(told.GetChildren()) == 0 {
		return n, nil
	}
	n.children = make(map[string]*trieNode, len(told.GetChildren()))
	n.leaves = 0
	for name, child := range told.GetChildren() {
		if child == nil {
			child = &pipepb.BoundedTrieNode{}
		}
		c, err := readTrie(child, depth+1)
		if err != nil {
			return nil, err
		}
		n.children[name] = c
		n.leaves += c.leaves
	}
	return n, nil
}

func (n *trieNode) proto() *pipepb.BoundedTrieNode {
	told := &pipepb.BoundedTrieNode{Truncated: n.truncated}
	if len(n.children) > 0 {
		told.Children = make(map[string]*pipepb.BoundedTrieNode, len(n.children))
	}
	for name, child := range n.children {
		told.Children[name] = child.proto()
	}
	return told
}

// merge adds other's paths, and takes other's nodes for its own.
func (n *trieNode) merge(other *trieNode) {
	switch {
	case n.truncated || len(other.children) == 0 && !other.truncated:
		return
	case other.truncated || len(n.children) == 0:
		*n = *other
		return
	}
	for name, theirs := range other.children {
		ours, ok := n.children[name]
		if !ok {
			n.children[name] = theirs
			n.leaves += theirs.leaves
			continue
		}
		n.leaves -= ours.leaves
		ours.merge(theirs)
		n.leaves += ours.leaves
	}
}

// trim truncates the deepest node on the way to the fullest children.
func (n *trieNode) trim() {
	var fullest string
	for name, child := range n.children {
		best := n.children[fullest]
		if best == nil || child.leaves > best.leaves || child.leaves == best.leaves && name < fullest {
			fullest = name
		}
	}
	child := n.children[fullest]
	if child == nil || child.leaves == 1 {
		*n = trieNode{truncated: true, leaves: 1}
		return
	}
	n.leaves -= child.leaves
	child.trim()
	n.leaves += child.leaves
}

func (n *trieNode) walk(path string, leaf func(path string)) {
	if len(n.children) == 0 {
		if n.truncated {
			path += "*"
		}
		leaf(path)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(n.children)) {
		n.children[name].walk(path+name, leaf)
	}
}

// A histogram counts values by bucket. Values with other buckets than the
// first one's can't be added and are dropped.
type histogram struct {
	value *pipepb.HistogramValue // nil while empty
}

func (c *histogram) fold(b []byte) (bool, error) {
	told := new(pipepb.HistogramValue)
	if err := proto.Unmarshal(b, told); err != nil {
		return true, errPayload
	}
	if c.value == nil {
		c.value = told
		return true, nil
	}
	if !proto.Equal(c.value.GetBucketOptions(), told.GetBucketOptions()) {
		return false, nil
	}
	count := c.value.GetCount() + told.GetCount()
	c.value.Count = &count
	// Trailing empty buckets may be left out.
	for len(c.value.BucketCounts) < len(told.GetBucketCounts()) {
		c.value.BucketCounts = append(c.value.BucketCounts, 0)
	}
	for i, n := range told.GetBucketCounts() {
		c.value.BucketCounts[i] += n
	}
	return true, nil
}

func (c *histogram) append(dst []byte) []byte {
	if c.value == nil {
		return dst
	}
	dst, err := deterministic.MarshalAppend(dst, c.value)
	if err != nil { // all fields are numbers
		return dst
	}
	return dst
}

func (c *histogram) text() string {
	return fmt.Sprintf("count %d, buckets %v", c.value.GetCount(), c.value.GetBucketCounts())
}
