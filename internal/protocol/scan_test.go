package protocol
import ("testing";"flag")
var scanN = flag.Int("scan",0,"")
func TestScan(t *testing.T){
 if *scanN==0 {t.Skip()}
 for m:=mutation(1);m<mutationCount;m++{
  if *mutantArg!=0 && int(m)!=*mutantArg {continue}
  bad,first:=0,0; v:=""
  for i:=1;i<=*scanN;i++{ s:=newSim(*firstSeed+uint64(i)-1,m); s.run(); if s.o.violation!=""{bad++; if first==0{first=i;v=s.o.violation}; if bad>=20 {t.Logf("%d: %d bad in %d first %d %s",m,bad,i,first,v);break}}}
  if bad<20 {t.Logf("%d: %d bad in %d first %d %s",m,bad,*scanN,first,v)}
 }
}
