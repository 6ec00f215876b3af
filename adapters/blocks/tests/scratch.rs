use tonfall_blocks::*;
#[test] fn gg(){
 let f=std::fs::read("/tmp/bnb/gg.bin").unwrap(); let mut p=0;
 while p<f.len(){ let l:Vec<usize>=(0..3).map(|k|u64::from_le_bytes(f[p+8*k..p+8*k+8].try_into().unwrap()) as usize).collect(); p+=24;
  let fmt=Format::ALL[l[0]]; let b=&f[p..p+l[1]]; p+=l[1]; let y=&f[p..p+l[2]]; p+=l[2];
  let n=l[2]/4; let mut o=vec![0f32;n]; dequantize(fmt,b,n/256,256,0,&mut o);
  let bad=o.iter().zip(y.chunks(4)).filter(|(a,b)|{let b=f32::from_le_bytes((*b).try_into().unwrap()); !(a.to_bits()==b.to_bits()|| (a.is_nan()&&b.is_nan()))}).count();
  let mut part=true; for (s,len) in [(0,1),(1,7),(31,2),(33,300),(255,513),(256,256),(77,1000)] { let mut q=vec![0f32;len]; dequantize(fmt,b,n/256,256,s,&mut q); part&= q.iter().zip(&o[s..]).all(|(a,b)|a.to_bits()==b.to_bits()); }
  let rep=200; let t=std::time::Instant::now(); for _ in 0..rep { dequantize(fmt,b,n/256,256,0,&mut o); std::hint::black_box(&o);} 
  println!("{fmt} n {n} bad {bad} part {part} {:.2} Gel/s", (n*rep) as f64/t.elapsed().as_secs_f64()/1e9);
 }
 let x:Vec<f32>=(0..1<<20).map(|i| ((i*7919)%1000) as f32*0.01-5.0).collect(); let t=std::time::Instant::now(); let b=quantize_nf4(&x); println!("quant {:.3} Gel/s",(1<<20) as f64/t.elapsed().as_secs_f64()/1e9);
 let mut o=x.clone(); let t=std::time::Instant::now(); for _ in 0..10 {dequantize(Format::Nf4,&b,1,1<<20,0,&mut o);std::hint::black_box(&o);} println!("deq nf4 {:.3} Gel/s",(10<<20) as f64/t.elapsed().as_secs_f64()/1e9);
}
