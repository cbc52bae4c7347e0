// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stillpoint-go/protect"
	"github.com/stillpoint-go/protect/snapshot"
)

// streamPath is the PATH that stands for stdin, and streamName its volume.
const (
	streamPath = "-"
	streamName = "stdin"
)

// volumes returns a volume for each path, and the name of the one that is read
// from stdin, if any. A volume is named like the last element of its path;
// the second of a name gets a number.
func volumes(paths []string) (vols []protect.Volume, stream string, err error) {
	var names []string
	for _, p := range paths {
		if p == streamPath {
			if stream != "" {
				return nil, "", errors.New(`"-" stands for stdin, and can be given once`)
			}
			stream = unique(streamName, names)
			names = append(names, stream)
			continue
		}
		abs, err := filepath.Abs(p)
		if err != nil {
			return nil, "", err
		}
		if abs, err = filepath.EvalSymlinks(abs); err != nil {
			return nil, "", err
		}
		if slices.ContainsFunc(vols, func(v protect.Volume) bool { return string(v.ID) == abs }) {
			return nil, "", fmt.Errorf("%q is given twice", abs)
		}
		name := unique(baseName(p), names)
		names = append(names, name)
		vols = append(vols, protect.Volume{Name: name, ID: snapshot.VolumeID(abs)})
	}
	return vols, stream, nil
}

// baseName returns what a volume or an application is called after: the last
// element of a path as it was given, before links are resolved, or "root".
func baseName(path string) string {
	if path == streamPath {
		return streamName
	}
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	name := strings.ToValidUTF8(filepath.Base(path), "_")
	if name == string(filepath.Separator) || name == "." {
		return "root"
	}
	return name
}

// unique returns name, with a number if it is taken.
func unique(name string, taken []string) string {
	for n, s := 2, name; ; n++ {
		if !slices.Contains(taken, s) {
			return s
		}
		s = fmt.Sprintf("%s-%d", name, n)
	}
}
