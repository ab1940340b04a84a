package raftmeta

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// An identity is which group a node is of. The group's id is made by chance by
// the member that founds it; the others take it over from whoever first calls
// them, once and for good.
type identity struct {
	id    string
	store *store

	mu   sync.Mutex
	is   membership
	list string // fingerprint of the founding members that this process was given
}

type membership struct {
	Group   string `json:"group"`
	Founder bool   `json:"founder,omitempty"` // it made the id, and writes the first configuration
}

func openIdentity(id string, s *store) (*identity, error) {
	i := &identity{id: id, store: s}
	b, err := s.Get([]byte(groupKey))
	if errors.Is(err, raftboltdb.ErrKeyNotFound) {
		return i, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &i.is)
	}
	if err != nil {
		return nil, err
	}
	return i, nil
}

func (i *identity) group() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.is.Group
}

func (i *identity) founders() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.list
}

// found makes this node the founder of a new group, unless it is of one.
func (i *identity) found() (membership, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.is.Group != "" {
		return i.is, nil
	}
	var random [16]byte
	_, _ = rand.Read(random[:]) // it never fails
	err := i.become(membership{hex.EncodeToString(random[:]), true})
	return i.is, err
}

// become is called with the lock held.
func (i *identity) become(m membership) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := i.store.Set([]byte(groupKey), b); err != nil {
		return err
	}
	i.is = m
	return nil
}

// judge decides whether who says hello belongs here.
func (i *identity) judge(h hello) answer {
	i.mu.Lock()
	defer i.mu.Unlock()
	a := answer{id: i.id}
	switch {
	case h.to != i.id:
		a.reason = fmt.Sprintf("this is %s, not %s: the address of one of them is wrong", i.id, h.to)
	case h.kind == helloAsk && i.is.Group == "" && i.list != "" && h.founders != "" && i.list != h.founders:
		a.reason = "it was given another list of founding members"
	case h.kind == helloAsk:
		a.ok = true
	case h.kind != helloTalk:
		a.reason = "it doesn't know this kind of call: use a newer program"
	case h.group == "":
		a.reason = fmt.Sprintf("%s is of no group", h.from)
	case i.is.Group == "":
		if err := i.become(membership{Group: h.group}); err != nil {
			a.reason = "it couldn't store the group's id: " + err.Error()
			break
		}
		a.ok = true
	case i.is.Group != h.group:
		a.reason = fmt.Sprintf("it is of group %.8s, and %s of group %.8s: one of them was founded by mistake", i.is.Group, h.from, h.group)
	default:
		a.ok = true
	}
	a.group = i.is.Group
	return a
}

// fingerprint tells lists of members apart, in whatever order they are.
func fingerprint(members []Member) string {
	var lines []string
	for _, m := range members {
		lines = append(lines, m.ID+"="+m.Addr)
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	return hex.EncodeToString(sum[:16])
}
