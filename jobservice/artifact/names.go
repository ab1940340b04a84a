package artifact

import (
	"errors"
	"fmt"
	"path"
	"strings"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// The URNs of artifact types and roles.
const (
	TypeFile     = "beam:artifact:type:file:v1"
	TypeURL      = "beam:artifact:type:url:v1"
	TypeEmbedded = "beam:artifact:type:embedded:v1"
	TypePyPI     = "beam:artifact:type:pypi:v1"
	TypeMaven    = "beam:artifact:type:maven:v1"
	TypeDeferred = "beam:artifact:type:deferred:v1"
	// TypeGoWorker is what old Go SDKs call their worker's binary.
	TypeGoWorker = "beam:artifact:type:go_worker_binary:v1"

	RoleStagingTo = "beam:artifact:role:staging_to:v1"
	RoleGoWorker  = "beam:artifact:role:go_worker_binary:v1"
)

// CheckStagedName accepts a name that stays below whatever directory a worker
// joins it to.
func CheckStagedName(name string) error {
	switch {
	case name == "":
		return errors.New("staged name is empty")
	case len(name) > 1024:
		return fmt.Errorf("staged name %q… has %d bytes; 1024 are allowed", name[:64], len(name))
	case strings.ContainsAny(name, "\x00\\\n\r"):
		return fmt.Errorf("staged name %q holds a character that is not allowed in file names", name)
	case path.IsAbs(name):
		return fmt.Errorf("staged name %q is absolute; it must be relative to the worker's staging directory", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "..", part == ".", part == "":
			return fmt.Errorf("staged name %q must be a plain relative path, without %q between slashes", name, part)
		case len(part) > 255:
			return fmt.Errorf("staged name %q… has a part of %d bytes; 255 are allowed", part[:64], len(part))
		}
	}
	return nil
}

// Check refuses an artifact that can't be staged, with the reason.
func Check(a *pipepb.ArtifactInformation) error {
	switch a.GetTypeUrn() {
	case TypeFile, TypeURL, TypeEmbedded, TypeDeferred, TypeGoWorker:
	case TypePyPI:
		var p pipepb.PyPIPayload
		_ = proto.Unmarshal(a.GetTypePayload(), &p) // its name is for the message only
		return fmt.Errorf("artifact type pypi (%q) is not supported: stage the package as a file (--extra_package, or a requirements cache)", p.GetArtifactId())
	case TypeMaven:
		var p pipepb.MavenPayload
		_ = proto.Unmarshal(a.GetTypePayload(), &p)
		return fmt.Errorf("artifact type maven (%q) is not supported: stage the jar as a file (--filesToStage)", p.GetArtifact())
	default:
		return fmt.Errorf("unknown artifact type %.100q; file, url and embedded are supported", a.GetTypeUrn())
	}
	if a.GetRoleUrn() != RoleStagingTo {
		return nil
	}
	var role pipepb.ArtifactStagingToRolePayload
	if err := proto.Unmarshal(a.GetRolePayload(), &role); err != nil {
		return fmt.Errorf("payload of role staging_to can't be read: %w", err)
	}
	return CheckStagedName(role.GetStagedName())
}

// Staged describes a kept file under the role that its sender gave it.
func Staged(name string, sent *pipepb.ArtifactInformation) (*pipepb.ArtifactInformation, error) {
	payload, err := proto.Marshal(&pipepb.ArtifactFilePayload{Path: name, Sha256: name})
	if err != nil {
		return nil, err
	}
	return &pipepb.ArtifactInformation{
		TypeUrn:     TypeFile,
		TypePayload: payload,
		RoleUrn:     sent.GetRoleUrn(),
		RolePayload: sent.GetRolePayload(),
	}, nil
}

// Label is what a person would call an artifact.
func Label(a *pipepb.ArtifactInformation) string {
	var role pipepb.ArtifactStagingToRolePayload
	if a.GetRoleUrn() == RoleStagingTo && proto.Unmarshal(a.GetRolePayload(), &role) == nil && role.GetStagedName() != "" {
		return fmt.Sprintf("%.120q", role.GetStagedName())
	}
	if a.GetRoleUrn() == RoleGoWorker {
		return "Go worker binary"
	}
	var file pipepb.ArtifactFilePayload
	if a.GetTypeUrn() == TypeFile && proto.Unmarshal(a.GetTypePayload(), &file) == nil {
		return fmt.Sprintf("%.120q", path.Base(file.GetPath()))
	}
	return fmt.Sprintf("of type %.100q", a.GetTypeUrn())
}
