package protocol
import "testing"
func TestS2(t *testing.T){
 for _,g:=range [][]scenario{pinScenarios,markerScenarios,holdScenarios}{ for _,x:=range g {
  t.Run(x.name,func(t *testing.T){
   sc:=newScript(t,x.with...); x.play(sc); sc.settle(); if sc.o.violation!="" {t.Errorf("%s\n%s",sc.o.violation,sc.trace)}
   for _,m:=range x.catches { sc:=newScript(t,append(x.with,m)...); x.play(sc); if sc.o.violation=="" {t.Errorf("mutant %d not caught\n%s",m,sc.trace)}}
  })
 }}
}
