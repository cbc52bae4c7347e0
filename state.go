// SPDX-License-Identifier: Apache-2.0

package protect

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/stillpoint-go/protect/hooks"
	"github.com/stillpoint-go/protect/repo"
)

// Phase names a step on the way to a recovery point.
type Phase string

// The phases, in their order.
const (
	PhasePrepare Phase = "prepare" // checks and preparations, leftovers are removed
	PhaseCut     Phase = "cut"     // freeze, cut, proof, thaw
	PhaseReady   Phase = "ready"   // until the snapshots can be read
	PhaseUpload  Phase = "upload"  // move the data, commit
	PhaseRelease Phase = "release" // remove the snapshots
	PhaseDone    Phase = "done"
)

// MaxState bounds the JSON of a State, in bytes, so that it fits where
// operators keep it.
const MaxState = 16 << 10

const stateVersion = 1

// State is how far a recovery point has come. Callers store and return it;
// they may look at it, but not change it.
type State struct {
	Version int    `json:"version"`
	ID      string `json:"id"` // of the recovery point, chosen by the caller
	Phase   Phase  `json:"phase"`
	// Since is when the step before was done, zero in a new state.
	Since time.Time `json:"since,omitzero"`
	// Cut is set once the volumes are cut.
	Cut *Cut `json:"cut,omitempty"`
}

// NewState returns the state before the first step of the recovery point with
// this ID, which the caller chooses: unique in the repository, 1 to 255 bytes
// of UTF-8 without control characters. The UID of a custom resource is fine.
func NewState(id string) State {
	return State{Version: stateVersion, ID: id, Phase: PhasePrepare}
}

// Cut is what is known of the instant in which the volumes were cut.
type Cut struct {
	Set  string    `json:"set"` // of snapshots
	Time time.Time `json:"time"`
	// Level is what was proven, and Doubts says why it is not more.
	Level  Consistency `json:"level"`
	Doubts []string    `json:"doubts,omitempty"`
	// Frozen is the time from the first freeze to the last thaw; 0 if nothing
	// was frozen. Skew is how far apart the volumes were cut.
	Frozen time.Duration `json:"frozen_ns"`
	Skew   time.Duration `json:"skew_ns"`
	// Evidence is what the members returned, to be stored with the point.
	Evidence map[string]hooks.Evidence `json:"evidence,omitempty"`
}

func (s *State) validate() error {
	if s.Version != stateVersion {
		return fmt.Errorf("%w: version %d, and this release reads version %d", ErrState, s.Version, stateVersion)
	}
	if s.ID == "" {
		return fmt.Errorf("%w: it has no ID", ErrState)
	}
	switch s.Phase {
	case PhasePrepare, PhaseCut:
		return nil
	case PhaseReady, PhaseUpload, PhaseRelease, PhaseDone:
		if s.Cut == nil && s.Phase != PhaseDone {
			return fmt.Errorf("%w: phase %q without a cut", ErrState, s.Phase)
		}
		return nil
	default:
		return fmt.Errorf("%w: unknown phase %q", ErrState, s.Phase)
	}
}

// checkSize reports whether the state is small enough to be stored.
func (s *State) checkSize() error {
	b, err := json.Marshal(s)
	if err == nil && len(b) > MaxState {
		err = fmt.Errorf("%w: %d bytes exceed %d", ErrState, len(b), MaxState)
	}
	return err
}

// setPrefix begins the identifiers of all snapshot sets of a point. It is a
// hash because identifiers of snapshots have a narrow alphabet.
func setPrefix(id string) string {
	h := sha256.Sum256([]byte("protect snapshot set\x00" + id))
	return fmt.Sprintf("p%x.", h[:12])
}

// RecoveryPoint is a committed recovery point.
type RecoveryPoint struct {
	ID          string        `json:"id"`
	Application string        `json:"application"`
	Time        time.Time     `json:"time"` // of the cut
	Level       Consistency   `json:"level"`
	Doubts      []string      `json:"doubts,omitempty"` // why it is not a higher level
	Frozen      time.Duration `json:"frozen_ns"`        // from the first freeze to the last thaw
	Skew        time.Duration `json:"skew_ns"`          // between the cuts of the volumes
	Stats       repo.Stats    `json:"stats"`
	// Point is the record in the repository.
	Point *repo.Point `json:"-"`
}

// evidenceName is the entry of a point's evidence that holds the Cut.
const evidenceName = "protect"

// evidence returns what is stored with the point: what the members returned,
// and the rest of the cut.
func (c *Cut) evidence() (map[string]map[string][]byte, error) {
	own := *c
	own.Evidence = nil
	b, err := json.Marshal(own)
	if err != nil {
		return nil, err
	}
	out := map[string]map[string][]byte{evidenceName: {"cut": b}}
	for name, e := range c.Evidence {
		out[name] = e
	}
	return out, nil
}

// NewRecoveryPoint returns what a record of the repository says as a recovery
// point. One that was written without this package has no consistency that was
// proven.
func NewRecoveryPoint(p *repo.Point) *RecoveryPoint {
	rp := &RecoveryPoint{ID: p.ID, Application: p.Name, Time: p.Time, Stats: p.Stats, Point: p}
	var c Cut
	if err := json.Unmarshal(p.Evidence[evidenceName]["cut"], &c); err == nil {
		rp.Level, rp.Doubts, rp.Frozen, rp.Skew = c.Level, c.Doubts, c.Frozen, c.Skew
	}
	return rp
}

var (
	// ErrConsistency reports that a cut proved less than the application
	// requires. Nothing was stored.
	ErrConsistency = errors.New("protect: consistency is weaker than required")

	// ErrState reports a State that this release cannot continue from.
	ErrState = errors.New("protect: unusable state")
)

// Error is the error of a Protector.
type Error struct {
	Op    string // "step", "run", "rehearse", "recover", "abandon", "points", "restore"
	ID    string // of the recovery point, if any
	Phase Phase  // in which a step failed, if any
	Err   error
}

// Error implements error.
func (e *Error) Error() string {
	s := "protect: " + e.Op
	if e.ID != "" {
		s += fmt.Sprintf(" %q", e.ID)
	}
	if e.Phase != "" {
		s += ": " + string(e.Phase)
	}
	return s + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }
