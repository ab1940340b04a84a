package raftmeta

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// checkPages reads a bbolt file's pages without bbolt, which maps the file and
// trusts it: a damaged one would make it panic, read past the file's end, turn
// in circles or, worst, fall back to the last state but one. It checks that
// the pages make one tree with keys in order, and that the log has no gap.
// What is in the values has checksums of its own.
func checkPages(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	c := &pageCheck{file: file, seen: map[uint64]bool{}}
	where, err := c.check()
	if err != nil {
		err = &DamagedError{path, where, err}
	}
	return errors.Join(err, file.Close())
}

// Of bbolt's format, which is in the machine's byte order.
const (
	pageHeader  = 16
	pageElement = 16
	metaBytes   = 64
	branchPage  = 1
	leafPage    = 2
	metaPage    = 4
	bucketFlag  = 1
	bucketBytes = 16
	boltMagic   = 0xED0CDAED
	boltVersion = 2
)

var order = binary.NativeEndian

type pageCheck struct {
	file     *os.File
	size     int64
	pageSize int64
	high     uint64 // pages from here on were never used
	seen     map[uint64]bool
	page     uint64 // at hand, for errors
}

// A leaf is called for each element of a leaf page, in order of keys.
type leaf func(flags uint32, key, value []byte) error

func (c *pageCheck) check() (where string, err error) {
	stat, err := c.file.Stat()
	if err != nil {
		return "its start", err
	}
	c.size = stat.Size()
	root, err := c.meta()
	if err != nil {
		return "its start", err
	}
	buckets := map[string]leaf{"logs": logLeaf(), "conf": confLeaf}
	err = c.walk(root, nil, nil, func(flags uint32, key, value []byte) error {
		visit := buckets[string(key)]
		if visit == nil || flags != bucketFlag || len(value) < bucketBytes {
			return fmt.Errorf("it has a bucket %q of flags %#x", key, flags)
		}
		delete(buckets, string(key))
		here := c.page
		defer func() { c.page = here }()
		if root := order.Uint64(value); root != 0 {
			if err := c.walk(root, nil, nil, visit); err != nil {
				return err
			}
			return nil
		}
		return c.elements(value[bucketBytes:], nil, nil, visit)
	})
	if err == nil && len(buckets) > 0 {
		err = errors.New("a bucket is missing")
	}
	return fmt.Sprintf("page %d", c.page), err
}

// meta reads the two meta pages and returns the root of the newer one. Each is
// within one sector, which a disk writes whole or not at all: one that doesn't
// match its checksum was damaged later, and may have been the newer.
func (c *pageCheck) meta() (root uint64, err error) {
	var newest uint64
	b := make([]byte, pageHeader+metaBytes)
	for i := range uint64(2) {
		c.page = i
		if _, err := c.file.ReadAt(b, int64(i)*c.pageSize); err != nil {
			return 0, fmt.Errorf("meta page %d: %w", i, err)
		}
		m := b[pageHeader:]
		h := fnv.New64a()
		h.Write(m[:metaBytes-8])
		if order.Uint64(b) != i || order.Uint16(b[8:]) != metaPage || order.Uint32(m) != boltMagic || h.Sum64() != order.Uint64(m[metaBytes-8:]) {
			return 0, fmt.Errorf("meta page %d doesn't match its checksum", i)
		}
		if v := order.Uint32(m[4:]); v != boltVersion {
			return 0, fmt.Errorf("meta page %d has format version %d: use a newer program", i, v)
		}
		if c.pageSize == 0 {
			c.pageSize = int64(order.Uint32(m[8:]))
		}
		if tx := order.Uint64(m[48:]); tx >= newest {
			newest, root, c.high = tx, order.Uint64(m[16:]), order.Uint64(m[40:])
		}
	}
	return root, nil
}

// walk visits the tree below a page, whose keys are from min on and below max
// (nil: no bound, as at the root).
func (c *pageCheck) walk(id uint64, min, max []byte, visit leaf) error {
	c.page = id
	switch {
	case id < 2 || id >= c.high:
		return fmt.Errorf("page %d of %d is referred to", id, c.high)
	case c.seen[id]:
		return fmt.Errorf("page %d is referred to twice", id)
	}
	var head [pageHeader]byte
	if _, err := c.file.ReadAt(head[:], int64(id)*c.pageSize); err != nil {
		return fmt.Errorf("read page %d: %w", id, err)
	}
	overflow := uint64(order.Uint32(head[12:]))
	if order.Uint64(head[:]) != id || id+overflow >= c.high {
		return fmt.Errorf("page %d says that it is page %d and %d more", id, order.Uint64(head[:]), overflow)
	}
	for i := range overflow + 1 {
		if c.seen[id+i] {
			return fmt.Errorf("page %d is in use twice", id+i)
		}
		c.seen[id+i] = true
	}
	length := int64(overflow+1) * c.pageSize
	if int64(id)*c.pageSize+length > c.size {
		return fmt.Errorf("page %d: %w", id, io.ErrUnexpectedEOF)
	}
	page := make([]byte, length)
	if _, err := c.file.ReadAt(page, int64(id)*c.pageSize); err != nil {
		return fmt.Errorf("read page %d: %w", id, err)
	}
	return c.elements(page, min, max, visit)
}

// elements visits what is in one page.
func (c *pageCheck) elements(page []byte, min, max []byte, visit leaf) error {
	if len(page) < pageHeader {
		return io.ErrUnexpectedEOF
	}
	flags, count := order.Uint16(page[8:]), int(order.Uint16(page[10:]))
	if flags != leafPage && flags != branchPage || len(page) < pageHeader+count*pageElement {
		return fmt.Errorf("it has flags %#x and %d elements", flags, count)
	}
	if count == 0 && (flags == branchPage || min != nil) { // only a root may be empty
		return errors.New("it has no elements")
	}
	var before []byte
	for i := range count {
		at := pageHeader + i*pageElement
		e := page[at:]
		var pos, keyBytes, valueBytes uint64
		if flags == leafPage {
			pos, keyBytes, valueBytes = uint64(order.Uint32(e[4:])), uint64(order.Uint32(e[8:])), uint64(order.Uint32(e[12:]))
		} else {
			pos, keyBytes = uint64(order.Uint32(e)), uint64(order.Uint32(e[4:]))
		}
		if pos+keyBytes+valueBytes > uint64(len(e)) || pos < uint64((count-i)*pageElement) {
			return fmt.Errorf("its element %d reaches beyond it", i)
		}
		key, value := e[pos:pos+keyBytes], e[pos+keyBytes:pos+keyBytes+valueBytes]
		if i > 0 && bytes.Compare(before, key) >= 0 || bytes.Compare(key, min) < 0 || max != nil && bytes.Compare(key, max) >= 0 {
			return fmt.Errorf("the key of its element %d is out of order", i)
		}
		before = key
		if err := c.element(page, i, count, max, key, value, visit); err != nil {
			return err
		}
	}
	return nil
}

func (c *pageCheck) element(page []byte, i, count int, max, key, value []byte, visit leaf) error {
	e := page[pageHeader+i*pageElement:]
	if order.Uint16(page[8:]) == leafPage {
		return visit(order.Uint32(e), key, value)
	}
	if i+1 < count { // the next element's key bounds this one's page; it is checked in its turn
		n := e[pageElement:]
		pos, keyBytes := uint64(order.Uint32(n)), uint64(order.Uint32(n[4:]))
		if pos+keyBytes > uint64(len(n)) {
			return fmt.Errorf("its element %d reaches beyond it", i+1)
		}
		max = n[pos : pos+keyBytes]
	}
	here := c.page
	if err := c.walk(order.Uint64(e[8:]), key, max, visit); err != nil {
		return err
	}
	c.page = here
	return nil
}

// logLeaf checks that the log's indexes have no gap.
func logLeaf() leaf {
	var last uint64
	return func(flags uint32, key, _ []byte) error {
		if flags != 0 || len(key) != 8 {
			return fmt.Errorf("it has an entry %x of flags %#x", key, flags)
		}
		index := binary.BigEndian.Uint64(key)
		if index == 0 || last > 0 && index != last+1 {
			return fmt.Errorf("entry %d follows entry %d", index, last)
		}
		last = index
		return nil
	}
}

func confLeaf(flags uint32, key, _ []byte) error {
	if flags != 0 || !stableKeys[string(key)] {
		return fmt.Errorf("it has a value %q of flags %#x, which this program doesn't know", key, flags)
	}
	return nil
}
