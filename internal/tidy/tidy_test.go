package tidy

import (
	"go/ast"
	"path"
	"slices"
	"strings"
	"testing"
)

// A child never imports its parent: what both need goes into a third room. A
// fake is no child of what it stands for.
func TestChildrenDontImportParents(t *testing.T) {
	for _, s := range product(house(t)) {
		for _, i := range s.imports {
			if to := ours(i); to != "" && to != s.room && within(s.room, to) && !isFake(s.room) {
				t.Errorf("%s imports %s, its parent", s.path, to)
			}
		}
	}
}

// Doors don't know the house, and not each other.
func TestDoorsDontKnowTheHouse(t *testing.T) {
	allowed := excepting(doorExceptions)
	for _, s := range product(house(t)) {
		for _, door := range doors {
			if !within(s.room, door) {
				continue
			}
			for _, i := range s.imports {
				to := ours(i)
				if to == "" || within(to, door) || slices.Contains(plain, to) || allowed.allow(s.room+" -> "+to) {
					continue
				}
				t.Errorf("%s imports %s: the door %s must state what it needs as an interface of its own", s.path, to, door)
			}
		}
	}
	allowed.mustBeNeeded(t)
}

// Pure rooms hold no lock, start no goroutine, read no clock, do no I/O.
func TestPureRoomsArePure(t *testing.T) {
	for _, s := range product(house(t)) {
		if !slices.Contains(pure, s.room) {
			continue
		}
		for _, i := range s.imports {
			if withinAny(i, impure) {
				t.Errorf("%s imports %s, and %s is a pure room", s.path, i, s.room)
			}
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				t.Errorf("%s: a goroutine in the pure room %s", s.fset.Position(n.Pos()), s.room)
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(clocks, n.Sel.Name) {
					t.Errorf("%s: time.%s in the pure room %s", s.fset.Position(n.Pos()), n.Sel.Name, s.room)
				}
			}
			return true
		})
	}
}

// The scheduler and the catalog don't see Beam's protos, whatever they import.
func TestNoProtosBehindTheCatalog(t *testing.T) {
	imports := map[string][]string{}
	for _, s := range product(house(t)) {
		imports[s.room] = append(imports[s.room], s.imports...)
	}
	for _, room := range protoFree {
		if way := protoWay(room, imports, map[string]bool{}); way != nil {
			t.Errorf("%s sees Beam's protos: %s", room, strings.Join(way, " -> "))
		}
	}
}

// protoWay finds how a room comes to Beam's protos, or nil.
func protoWay(room string, imports map[string][]string, seen map[string]bool) []string {
	if seen[room] {
		return nil
	}
	seen[room] = true
	for _, i := range imports[room] {
		if within(i, beamProtos) {
			return []string{room, i}
		}
		if to := ours(i); to != "" {
			if way := protoWay(to, imports, seen); way != nil {
				return append([]string{room}, way...)
			}
		}
	}
	return nil
}

// Each outside library has one user.
func TestLibrariesHaveOneOwner(t *testing.T) {
	allowed := excepting(ownerExceptions)
	for _, s := range product(house(t)) {
		for _, i := range s.imports {
			outside := strings.Contains(strings.Split(i, "/")[0], ".")
			switch {
			case !outside, withinAny(i, shared), s.file.Name.Name == module:
				continue
			case within(i, "github.com/apache/beam"):
				if !withinAny(s.room, beamUsers) {
					t.Errorf("%s imports %s: only %v use the Beam SDK itself", s.path, i, beamUsers)
				}
				continue
			}
			library, owner := ownerOf(i)
			switch {
			case owner == "":
				t.Errorf("%s imports %s, which has no owner: name it in rooms_test.go", s.path, i)
			case s.room != owner && !allowed.allow(s.room+" -> "+library):
				t.Errorf("%s imports %s, which belongs to %s", s.path, i, owner)
			}
		}
	}
	allowed.mustBeNeeded(t)
}

func ownerOf(path string) (library, owner string) {
	for library, owner := range owners {
		if within(path, library) {
			return library, owner
		}
	}
	return "", ""
}

// isFake tells packages that exist for tests: …test, and the simulation.
func isFake(room string) bool {
	return strings.HasSuffix(room, "test") || within(room, "internal/sim")
}

func TestOnlyTestsImportFakes(t *testing.T) {
	for _, s := range product(house(t)) {
		for _, i := range s.imports {
			if to := ours(i); to != "" && isFake(to) && !isFake(s.room) {
				t.Errorf("%s imports the fake %s", s.path, to)
			}
		}
	}
}

// Every package says in its comment what it is for, and its name does too.
func TestPackagesSayWhatTheyAreFor(t *testing.T) {
	said := map[string]bool{}
	for _, s := range product(house(t)) {
		said[s.room] = said[s.room] || s.file.Doc != nil
		if slices.Contains(forbiddenNames, path.Base(s.room)) {
			t.Errorf("%s: the name says nothing", s.room)
		}
	}
	for room, ok := range said {
		if !ok && room != "." {
			t.Errorf("%s has no package comment", room)
		}
	}
}

// Functions and files stay short enough to be read.
func TestLengths(t *testing.T) {
	functions, files := map[string]int{}, map[string]int{}
	for _, s := range house(t) {
		if s.lines > longestFile {
			files[s.path] = s.lines
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Body == nil {
				continue
			}
			if n := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line + 1; n > longestFunction {
				functions[s.room+"."+f.Name.Name] = n
			}
		}
	}
	ratchet(t, "function", functions, longFunctions, longestFunction)
	ratchet(t, "file", files, longFiles, longestFile)
}

// ratchet compares what is too long with what is known to be.
func ratchet(t *testing.T, kind string, found, known map[string]int, limit int) {
	t.Helper()
	for name, n := range found {
		if n > max(known[name], limit) {
			t.Errorf("%s %s has %d lines, at most %d", kind, name, n, max(known[name], limit))
		}
	}
	for name, n := range known {
		if found[name] < n {
			t.Errorf("%s %s has become shorter: set its exception to %d, or take it off the list below %d", kind, name, found[name], limit)
		}
	}
}
