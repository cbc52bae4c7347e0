// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration_test

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"time"
)

// drawWindows draws two histograms for each case, one above the other, on a
// common logarithmic scale.
func drawWindows(all []windows) []byte {
	const left, width, row, bins = 210, 640, 64, 80
	low, high := math.Inf(1), math.Inf(-1)
	for _, w := range all {
		for _, d := range [][]time.Duration{w.bare, w.ours} {
			low, high = min(low, d[0].Seconds()), max(high, d[len(d)-1].Seconds())
		}
	}
	low, high = math.Floor(math.Log10(low)), math.Ceil(math.Log10(high))
	at := func(d time.Duration) float64 { return (math.Log10(d.Seconds()) - low) / (high - low) }
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", left+width+20, len(all)*row+60)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/><text x="%d" y="16">freeze window: <tspan fill="#888">same calls without coordination</tspan>, <tspan fill="#06c">Group.Do</tspan>; lines: p50 and p99</text>`+"\n", left)
	for e := low; e <= high; e++ {
		x := left + (e-low)/(high-low)*width
		fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="24" y2="%d" stroke="#ddd"/><text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n",
			x, x, len(all)*row+30, x, len(all)*row+46, time.Duration(math.Pow(10, e)*1e9).Round(time.Microsecond))
	}
	for i, w := range all {
		base := float64(i*row + row + 20)
		_, name, _ := strings.Cut(w.name, "/")
		fmt.Fprintf(&b, `<text x="%d" y="%.0f" text-anchor="end">%s</text>`+"\n", left-10, base-row/2+4, name)
		for k, d := range [][]time.Duration{w.bare, w.ours} {
			color, y := []string{"#888", "#06c"}[k], base-float64(1-k)*row/2
			var count [bins]int
			for _, v := range d {
				count[min(bins-1, int(at(v)*bins))]++
			}
			for n, c := range count {
				if c > 0 {
					h := float64(c) / float64(len(d)) * row
					h = min(h, row/2-4)
					fmt.Fprintf(&b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`+"\n", left+float64(n)*width/bins, y-h, float64(width)/bins-1, h, color)
				}
			}
			for _, p := range []int{50, 99} {
				x := left + at(quantile(d, p))*width
				fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="%s"/>`+"\n", x, x, y-row/2+4, y+3, color)
			}
		}
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}
